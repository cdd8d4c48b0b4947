// How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
// these days, counts with its part within them. What began or ended more than a year ago is not found.
device = "meter-1"
until = int(v: now()) / 1000000 // milliseconds
since = until - 7 * 24 * 60 * 60 * 1000

ended = from(bucket: "fleet")
  |> range(start: -365d)
  |> filter(fn: (r) => r._measurement == "device_history" and r.clientid == device)
  |> filter(fn: (r) => r.event == "client.disconnected")
  |> filter(fn: (r) => r._field == "connected_at" or r._field == "disconnected_at")
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group()
  |> map(fn: (r) => ({device: device, began: r.connected_at, ended: r.disconnected_at}))

// The connection that lasts, if the newest point of the status is one.
lasting = from(bucket: "fleet")
  |> range(start: -365d)
  |> filter(fn: (r) => r._measurement == "device_status" and r.clientid == device)
  |> filter(fn: (r) => r._field == "connected_at" or r._field == "seq")
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group()
  |> top(n: 1, columns: ["seq"])
  |> filter(fn: (r) => r.event == "client.connected")
  |> map(fn: (r) => ({device: device, began: r.connected_at, ended: until}))

union(tables: [ended, lasting])
  |> map(fn: (r) => ({r with began: if r.began < since then since else r.began}))
  |> map(fn: (r) => ({r with ended: if r.ended > until then until else r.ended}))
  |> map(fn: (r) => ({device: device, ms: if r.ended > r.began then r.ended - r.began else 0}))
  |> map(fn: (r) => ({device: device, online_seconds: float(v: r.ms) / 1000.0}))
  |> group(columns: ["device"])
  |> sum(column: "online_seconds")
  |> map(fn: (r) => ({r with online_percent: r.online_seconds / float(v: until - since) * 100000.0}))
