// server.js ADDRESS: a small service. Says on which port it listens, and ends by itself after `POST /stop`.
import { decode, readFile, scriptArgs } from "host";
import { serve } from "./http.js";

const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
let served = 0, ticks = 0;

async function* count(to) {
    for (let n = 1; n <= to; n++) {
        await sleep(1);
        yield `${n}\n`;
    }
}

const routes = {
    "GET /": () => ({ body: "hello from a script\n" }),
    "GET /file": () => ({ headers: { "content-type": "text/plain" }, body: readFile("/data/page.txt") }),
    "POST /echo": ({ body }) => ({ body }),
    "POST /sum": request => ({ body: `${JSON.parse(request.text()).reduce((a, b) => a + b, 0)}` }),
    "GET /count": ({ query }) => ({ body: count(Number(query)) }),
    "GET /sleep": async ({ query }) => (await sleep(Number(query)), { body: "slept\n" }),
    "GET /stats": () => ({ body: JSON.stringify({ served, ticks }) }),
    "POST /stop": () => (server.close(), { body: "bye\n" }),
};

const ticker = setInterval(() => ticks++, 10);
const server = serve(scriptArgs[1], 0, request => {
    served++;
    if (request.path === "/stop") clearInterval(ticker);
    const route = routes[`${request.method} ${request.path}`];
    return route ? route(request) : { status: 404, body: `nothing at ${request.path}\n` };
});
console.log(`listening on ${server.port}`);
console.error(decode(readFile("/data/page.txt")).trim());
