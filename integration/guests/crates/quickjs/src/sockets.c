/* Sockets, by the functions that WasmEdge added to preview1. All are non-blocking: what would block answers `null`, and
 * `readable` and `writable` say when to try again. Addresses are in text, IPv4 or IPv6. */
#include "host.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))

typedef struct {
    void *data;
    uint32_t len;
} Buffer;

enum { INET4 = 1, INET6 = 2, STREAM = 2 };
enum { SOCKET = 0, REUSE_ADDRESS = 0, SOCKET_ERROR = 2 };

IMPORT(sock_open) int32_t sock_open(int32_t family, int32_t type, int32_t *fd);
IMPORT(sock_bind) int32_t sock_bind(int32_t fd, Buffer *address, int32_t port);
IMPORT(sock_listen) int32_t sock_listen(int32_t fd, int32_t backlog);
IMPORT(sock_accept) int32_t sock_accept(int32_t fd, int32_t *accepted);
IMPORT(sock_connect) int32_t sock_connect(int32_t fd, Buffer *address, int32_t port);
IMPORT(sock_recv)
int32_t sock_recv(int32_t fd, Buffer *list, int32_t len, int32_t flags, uint32_t *got, uint16_t *out_flags);
IMPORT(sock_send) int32_t sock_send(int32_t fd, Buffer *list, int32_t len, int32_t flags, uint32_t *put);
IMPORT(sock_getlocaladdr)
int32_t sock_getlocaladdr(int32_t fd, Buffer *address, uint32_t *family, uint32_t *port);
IMPORT(sock_getsockopt)
int32_t sock_getsockopt(int32_t fd, int32_t level, int32_t name, void *value, uint32_t *len);
IMPORT(sock_setsockopt)
int32_t sock_setsockopt(int32_t fd, int32_t level, int32_t name, const void *value, uint32_t len);

/* The first argument of almost every function here. */
static bool fd_of(JSContext *ctx, JSValueConst value, int32_t *fd) {
    return !JS_ToInt32(ctx, fd, value);
}

static int nonblocking(int fd) {
    return fcntl(fd, F_SETFL, O_NONBLOCK) ? errno : 0;
}

/* A socket bound or connected to `address`, `port`; the errno, or 0. */
static int open_at(const char *text, int32_t port, bool listens, int32_t *fd) {
    uint8_t octets[16];
    Buffer address = {octets, 4};
    int family = INET4, yes = 1, error;
    if (inet_pton(AF_INET, text, octets) != 1) {
        if (inet_pton(AF_INET6, text, octets) != 1)
            return EINVAL;
        address.len = 16;
        family = INET6;
    }
    if ((error = sock_open(family, STREAM, fd)))
        return error;
    if ((error = nonblocking(*fd)))
        ;
    else if (!listens)
        error = sock_connect(*fd, &address, port);
    else if (!(error = sock_setsockopt(*fd, SOCKET, REUSE_ADDRESS, &yes, sizeof yes)) &&
             !(error = sock_bind(*fd, &address, port)))
        error = sock_listen(*fd, 128);
    if (error && error != EINPROGRESS)
        close(*fd);
    return error;
}

static JSValue open_socket(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv, int listens) {
    int32_t port, fd;
    if (JS_ToInt32(ctx, &port, argv[1]))
        return JS_EXCEPTION;
    const char *address = JS_ToCString(ctx, argv[0]);
    if (!address)
        return JS_EXCEPTION;
    int error = port < 0 || port > 65535 ? EINVAL : open_at(address, port, listens, &fd);
    JSValue result = error && error != EINPROGRESS ? throw_errno(ctx, error, address) : JS_NewInt32(ctx, fd);
    JS_FreeCString(ctx, address);
    return result;
}

/* What has become of `connect`: throws if it failed. */
static JSValue check_socket(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t fd, failure = 0;
    uint32_t len = sizeof failure;
    if (!fd_of(ctx, argv[0], &fd))
        return JS_EXCEPTION;
    int error = sock_getsockopt(fd, SOCKET, SOCKET_ERROR, &failure, &len);
    return error || failure ? throw_errno(ctx, error ? error : failure, "socket") : JS_UNDEFINED;
}

static JSValue local_port(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    uint8_t octets[16];
    Buffer address = {octets, sizeof octets};
    uint32_t family, port;
    int32_t fd;
    if (!fd_of(ctx, argv[0], &fd))
        return JS_EXCEPTION;
    int error = sock_getlocaladdr(fd, &address, &family, &port);
    return error ? throw_errno(ctx, error, "local address") : JS_NewUint32(ctx, port);
}

static JSValue accept_one(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t fd, accepted;
    if (!fd_of(ctx, argv[0], &fd))
        return JS_EXCEPTION;
    int error = sock_accept(fd, &accepted);
    if (error == EAGAIN || error == ECONNABORTED)
        return JS_NULL;
    if (!error && (error = nonblocking(accepted)))
        close(accepted);
    return error ? throw_errno(ctx, error, "accept") : JS_NewInt32(ctx, accepted);
}

/* At most this many bytes, none at the end. */
static JSValue receive(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    static uint8_t data[65536];
    Buffer buffer = {data, sizeof data};
    uint32_t got;
    uint16_t flags;
    int32_t fd;
    if (!fd_of(ctx, argv[0], &fd))
        return JS_EXCEPTION;
    int error = sock_recv(fd, &buffer, 1, 0, &got, &flags);
    if (error == EAGAIN)
        return JS_NULL;
    return error ? throw_errno(ctx, error, "receive") : JS_NewUint8ArrayCopy(ctx, data, got);
}

/* How many bytes were taken. */
static JSValue send_some(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    Buffer buffer;
    uint32_t put;
    int32_t fd;
    Bytes bytes;
    if (!fd_of(ctx, argv[0], &fd) || !bytes_of(ctx, argv[1], &bytes))
        return JS_EXCEPTION;
    buffer = (Buffer){(void *)bytes.data, bytes.len};
    int error = sock_send(fd, &buffer, 1, 0, &put);
    bytes_free(ctx, &bytes);
    if (error == EAGAIN)
        return JS_NULL;
    return error ? throw_errno(ctx, error, "send") : JS_NewUint32(ctx, put);
}

static JSValue close_socket(JSContext *ctx, JSValueConst this, int argc, JSValueConst *argv) {
    int32_t fd;
    if (!fd_of(ctx, argv[0], &fd))
        return JS_EXCEPTION;
    int error = close(fd) ? errno : 0;
    loop_forget(ctx, fd);
    return error ? throw_errno(ctx, error, "close") : JS_UNDEFINED;
}

const JSCFunctionListEntry socket_exports[] = {
    JS_CFUNC_MAGIC_DEF("listen", 2, open_socket, true),
    JS_CFUNC_MAGIC_DEF("connect", 2, open_socket, false),
    JS_CFUNC_DEF("check", 1, check_socket),
    JS_CFUNC_DEF("localPort", 1, local_port),
    JS_CFUNC_DEF("accept", 1, accept_one),
    JS_CFUNC_DEF("receive", 1, receive),
    JS_CFUNC_DEF("send", 2, send_some),
    JS_CFUNC_DEF("close", 1, close_socket),
};
const int socket_exports_len = COUNT(socket_exports);
