// Node-RED for the benchmark: no editor, and the driver of PostgreSQL for function nodes, as its documentation shows.
const { Pool } = require(require.resolve("pg", { paths: [process.env.BENCH_MODULES] }));

module.exports = {
    httpAdminRoot: false,
    httpNodeRoot: false,
    uiHost: "127.0.0.1",
    uiPort: Number(process.env.BENCH_UI_PORT),
    flowFile: "flows.json",
    credentialSecret: false,
    telemetry: { enabled: false },
    logging: { console: { level: "warn", metrics: false, audit: false } },
    functionTimeout: 0,
    functionGlobalContext: {
        pool: new Pool({ connectionString: process.env.BENCH_PG, max: 4 }),
    },
};
