// An HTTP/1.1 server.
import { decode, encode } from "host";
import { Listener } from "./net.js";

const REASONS = {
    200: "OK", 201: "Created", 204: "No Content", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    413: "Content Too Large", 431: "Request Header Fields Too Large", 500: "Internal Server Error",
};
const MAX_HEAD = 64 * 1024;
const MAX_BODY = 64 * 1024 * 1024;

/** A request that is refused with this status, after which the connection is of no use any more. */
class Refusal extends Error {
    constructor(status, message) {
        super(message);
        this.status = status;
    }
}

function joined(parts, length) {
    const all = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
        all.set(part, at);
        at += part.length;
    }
    return all;
}

/** Cuts what comes from a connection into lines and pieces of known length. */
class Reader {
    #connection;
    #rest = new Uint8Array(0);

    constructor(connection) {
        this.#connection = connection;
    }

    async #more() {
        const next = await this.#connection.read();
        this.#rest = joined([this.#rest, next], this.#rest.length + next.length);
        return next.length > 0;
    }

    /** The next line without its end; `null` if there is none. */
    async line() {
        let from = 0;
        for (;;) {
            const end = this.#rest.indexOf(10, from);
            if (end >= 0) {
                const line = decode(this.#rest.slice(0, end));
                this.#rest = this.#rest.subarray(end + 1);
                return line.endsWith("\r") ? line.slice(0, -1) : line;
            }
            from = this.#rest.length;
            if (from > MAX_HEAD) throw new Refusal(431, "line too long");
            if (!await this.#more()) return null;
        }
    }

    async exactly(length) {
        const parts = [this.#rest.subarray(0, length)];
        let have = parts[0].length;
        this.#rest = this.#rest.subarray(have);
        while (have < length) {
            const next = await this.#connection.read();
            if (next.length === 0) throw new Refusal(400, "body cut short");
            parts.push(next.subarray(0, length - have));
            this.#rest = next.subarray(parts.at(-1).length);
            have += parts.at(-1).length;
        }
        return joined(parts, length);
    }
}

async function readHeaders(reader) {
    const headers = {};
    let size = 0;
    for (;;) {
        const line = await reader.line();
        if (line === null) throw new Refusal(400, "header cut short");
        if (line === "") return headers;
        size += line.length;
        if (size > MAX_HEAD) throw new Refusal(431, "header too long");
        const colon = line.indexOf(":");
        if (colon < 1) throw new Refusal(400, "header without a colon");
        const name = line.slice(0, colon).toLowerCase(), value = line.slice(colon + 1).trim();
        headers[name] = name in headers ? `${headers[name]}, ${value}` : value;
    }
}

async function readChunks(reader) {
    const parts = [];
    let length = 0;
    for (;;) {
        const line = await reader.line();
        if (!/^[0-9a-f]{1,8}\s*(;|$)/i.test(line ?? "")) throw new Refusal(400, "bad chunk");
        const size = parseInt(line, 16);
        length += size;
        if (length > MAX_BODY) throw new Refusal(413, "body too long");
        if (size === 0) {
            await readHeaders(reader); // trailers
            return joined(parts, length);
        }
        parts.push(await reader.exactly(size));
        await reader.line();
    }
}

async function readBody(reader, headers) {
    if ((headers["transfer-encoding"] ?? "").toLowerCase() === "chunked") return readChunks(reader);
    const length = headers["content-length"] ?? "0";
    if (!/^\d+$/.test(length)) throw new Refusal(400, "bad length");
    if (Number(length) > MAX_BODY) throw new Refusal(413, "body too long");
    return reader.exactly(Number(length));
}

/** The next request of a connection; `null` if there is none. */
async function readRequest(reader, connection) {
    const line = await reader.line();
    if (line === null) return null;
    const [, method, target, version] = /^([A-Z]+) (\S+) HTTP\/1\.([01])$/.exec(line) ?? [];
    if (!method) throw new Refusal(400, "bad request line");
    const headers = await readHeaders(reader);
    if (headers.expect === "100-continue") await connection.write("HTTP/1.1 100 Continue\r\n\r\n");
    const body = await readBody(reader, headers);
    const [path, query = ""] = target.split("?");
    const wanted = (headers.connection ?? "").toLowerCase();
    const keep = version === "1" ? wanted !== "close" : wanted === "keep-alive";
    return { method, path, query, headers, body, text: () => decode(body), keep };
}

async function answer(connection, { method, keep }, { status = 200, headers = {}, body = "" }) {
    const streamed = typeof body === "object" && Symbol.asyncIterator in body;
    const bytes = streamed ? null : encode(body);
    const lines = [`HTTP/1.1 ${status} ${REASONS[status] ?? ""}`];
    for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`);
    lines.push(streamed ? "transfer-encoding: chunked" : `content-length: ${bytes.length}`);
    if (!keep) lines.push("connection: close");
    const head = encode(lines.join("\r\n") + "\r\n\r\n");
    if (method === "HEAD") return connection.write(head);
    if (!streamed) return connection.write(joined([head, bytes], head.length + bytes.length));
    await connection.write(head);
    for await (const part of body) {
        const data = encode(part);
        if (data.length === 0) continue; // would be the end
        await connection.write(`${data.length.toString(16)}\r\n`);
        await connection.write(data);
        await connection.write("\r\n");
    }
    await connection.write("0\r\n\r\n");
}

async function respond(handler, request) {
    try {
        return await handler(request);
    } catch (error) {
        console.error(error);
        return { status: 500, body: "internal error\n" };
    }
}

/**
 * Serves until `close` is called. `handler(request)` returns `{ status, headers, body }`, or a promise of it; a body is
 * a string, a Uint8Array, or an async iterable of these.
 */
export function serve(address, port, handler) {
    const listener = new Listener(address, port);
    const idle = new Set();
    let closing = false;

    async function converse(connection) {
        const reader = new Reader(connection);
        try {
            for (let keep = true; keep && !closing;) {
                idle.add(connection);
                const request = await readRequest(reader, connection);
                idle.delete(connection);
                if (!request) break;
                const response = await respond(handler, request);
                keep = request.keep &&= !closing;
                await answer(connection, request, response);
            }
        } catch (error) {
            // One that is gone, or says what is no HTTP, is no concern of the others.
            if (error instanceof Refusal)
                await answer(connection, { keep: false }, { status: error.status, body: `${error.message}\n` }).catch(() => {});
        } finally {
            idle.delete(connection);
            connection.close();
        }
    }

    (async () => {
        while (!closing) {
            try {
                converse(await listener.accept());
            } catch (error) {
                if (!closing) throw error;
            }
        }
    })();

    return {
        port: listener.port,
        /** Takes no more requests; those at work are answered. */
        close() {
            closing = true;
            listener.close();
            for (const connection of idle) connection.close();
        },
    };
}
