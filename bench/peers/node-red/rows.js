// A message more of the batch: its fields are chosen as Muster's rule chooses them. A batch goes to PostgreSQL as one
// statement when it has 1,000 rows or is 20 ms old, on up to four connections at a time.
const flush = () => {
    const columns = context.get("columns");
    clearTimeout(context.get("timer"));
    context.set("timer", null);
    context.set("columns", [[], [], [], [], []]);
    const insert =
        "INSERT INTO bench (clientid, topic, p, n, t) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], " +
        "$4::bigint[], $5::bigint[])";
    global.get("pool").query({ name: "rows", text: insert, values: columns }).catch((error) => node.error(error));
};
const columns = context.get("columns");
const row = [msg.topic.split("/")[1], msg.topic, msg.payload.p, msg.payload.n, msg.payload.t];
row.forEach((value, at) => columns[at].push(value));
if (columns[0].length >= 1000) {
    flush();
} else if (columns[0].length === 1) {
    context.set("timer", setTimeout(flush, 20));
}
return null;
