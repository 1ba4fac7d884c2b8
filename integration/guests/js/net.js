// TCP with promises, on the non-blocking sockets of the host.
import * as host from "host";

/** Tries until the answer is not `null`, which means that it would block. */
async function insist(wait, fd, attempt) {
    for (;;) {
        const answer = attempt(fd());
        if (answer !== null) return answer;
        await wait(fd());
    }
}

/** What can be closed, once. A descriptor that is closed already is -1 to the host, which has an error for it. */
class Socket {
    #fd;
    fd = () => this.#fd;

    constructor(fd) {
        this.#fd = fd;
    }

    close() {
        const fd = this.#fd;
        this.#fd = -1;
        if (fd >= 0) host.close(fd);
    }
}

export class Connection extends Socket {
    static async to(address, port) {
        const connection = new Connection(host.connect(address, port));
        try {
            await host.writable(connection.fd());
            host.check(connection.fd());
            return connection;
        } catch (error) {
            connection.close();
            throw error;
        }
    }

    /** The next bytes; none at the end. */
    read() {
        return insist(host.readable, this.fd, host.receive);
    }

    /** Writes all of a string or a Uint8Array. */
    async write(data) {
        let rest = host.encode(data);
        while (rest.length > 0) {
            const sent = await insist(host.writable, this.fd, fd => host.send(fd, rest));
            rest = rest.subarray(sent);
        }
    }
}

export class Listener extends Socket {
    constructor(address, port) {
        super(host.listen(address, port));
        this.port = host.localPort(this.fd());
    }

    async accept() {
        return new Connection(await insist(host.readable, this.fd, host.accept));
    }
}
