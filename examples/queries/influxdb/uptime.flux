// How long one device was online in the last seven days. A connection that lasts, or that began or ended outside of
// these days, counts with its part within them. What lasts longer than a year is not found.
import "experimental"

device = "meter-1"
since = int(v: experimental.subDuration(d: 7d, from: now())) / 1000000
until = int(v: now()) / 1000000

from(bucket: "fleet")
  |> range(start: -365d)
  |> filter(fn: (r) => r._measurement == "device_history" and r.clientid == device)
  |> filter(fn: (r) => r._field == "session" or r._field == "connected_at" or r._field == "disconnected_at")
  |> pivot(rowKey: ["_time"], columnKey: ["_field"], valueColumn: "_value")
  |> group(columns: ["session"])
  |> reduce(
    identity: {began: 0, ended: 0},
    fn: (r, accumulator) => ({
      began: r.connected_at,
      ended: if r.event == "client.disconnected" then r.disconnected_at else accumulator.ended,
    }),
  )
  |> map(fn: (r) => ({r with ended: if r.ended == 0 or r.ended > until then until else r.ended}))
  |> map(fn: (r) => ({r with began: if r.began < since then since else r.began}))
  |> map(fn: (r) => ({r with ms: if r.ended > r.began then r.ended - r.began else 0}))
  |> map(fn: (r) => ({device: device, online_seconds: float(v: r.ms) / 1000.0}))
  |> group(columns: ["device"])
  |> sum(column: "online_seconds")
  |> map(fn: (r) => ({r with online_percent: r.online_seconds / float(v: until - since) * 100000.0}))
