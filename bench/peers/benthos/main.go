// Benthos 4.27, which became Redpanda Connect, with the components that the benchmark's pipeline needs and no others,
// so that it builds in a minute: MQTT in, SQL out with PostgreSQL's driver, and what every distribution has.
package main

import (
	"context"

	_ "github.com/benthosdev/benthos/v4/public/components/mqtt"
	_ "github.com/benthosdev/benthos/v4/public/components/pure"
	_ "github.com/benthosdev/benthos/v4/public/components/sql/base"
	"github.com/benthosdev/benthos/v4/public/service"
	_ "github.com/lib/pq"
)

func main() {
	service.RunCLI(context.Background())
}
