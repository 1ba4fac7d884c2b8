/* The host modules rustls_client and wasmedge_httpsreq, used wrongly: `tls rustls` says `ok` if each wrong use is an error and
 * harms nothing, `tls nothing` if there is no reply before a request; `tls CASE` does what ends it. */
#include "check.h"
#include <stdint.h>

#define TLS(name) __attribute__((import_module("rustls_client"), import_name(#name))) int name
#define REQ(name) __attribute__((import_module("wasmedge_httpsreq"), import_name("wasmedge_httpsreq_" #name)))

TLS(default_config)(void);
TLS(new_codec)(int config, int name, int len);
TLS(codec_is_handshaking)(int codec);
TLS(codec_wants)(int codec);
TLS(delete_codec)(int codec);
TLS(send_close_notify)(int codec);
TLS(process_new_packets)(int codec, int state);
TLS(write_raw)(int codec, int buf, int len);
TLS(read_raw)(int codec, int buf, int len);
TLS(write_tls)(int codec, int buf, int len);
TLS(read_tls)(int codec, int buf, int len);

REQ(send_data) void send_data(int host, int host_len, int port, int body, int body_len);
REQ(get_rcv_len) int get_rcv_len(void);
REQ(get_rcv) void get_rcv(int buf);

enum { PARAMETER = -1, CORRUPT = -4, WOULD_BLOCK = -25, IO = -26 };

/* The first address beyond the memory; it is below zero when the memory has two gigabytes, which this has not. */
static int end(void) {
    return (int)(__builtin_wasm_memory_size(0) << 16);
}

static int at(const void *address) {
    return (int)(intptr_t)address;
}

static int open_codec(const char *name) {
    return new_codec(0, at(name), strlen(name));
}

static char buffer[100000];
#define BUFFER at(buffer), sizeof(buffer)

static void without_a_codec(int codec) {
    WASI(codec_is_handshaking(codec), PARAMETER);
    WASI(codec_wants(codec), PARAMETER);
    WASI(send_close_notify(codec), PARAMETER);
    WASI(process_new_packets(codec, at(buffer)), PARAMETER);
    WASI(write_raw(codec, BUFFER), PARAMETER);
    WASI(read_raw(codec, BUFFER), PARAMETER);
    WASI(write_tls(codec, BUFFER), PARAMETER);
    WASI(read_tls(codec, BUFFER), PARAMETER);
    WASI(delete_codec(codec), 0);
}

static const int nowhere[] = {0, 7, -1, INT32_MAX, INT32_MIN};

static void numbers(void) {
    for (int i = 0; i < 5; i++) without_a_codec(nowhere[i]);
    WASI(default_config(), 0);
    WASI(default_config(), 0);
    WASI(open_codec("server.test"), 0);
    WASI(open_codec("127.0.0.1"), 1);
    WASI(open_codec("server.test"), 2);
    WASI(delete_codec(1), 0);
    WASI(delete_codec(1), 0);
    without_a_codec(1);
    WASI(open_codec("server.test"), 1);
    for (int i = 0; i < 3; i++) delete_codec(i);
    for (int i = 0; i < 5; i++) without_a_codec(nowhere[i]);
    for (int i = 0; i < 1000; i++) WASI(open_codec("server.test"), i);
    for (int i = 0; i < 1000; i++) delete_codec(i);
}

static void names(void) {
    const char *wrong[] = {"", "a b", "\xff\xfe", "server.test\n", "-", "1.2.3.4.5"};
    for (int i = 0; i < 6; i++) WASI(open_codec(wrong[i]), PARAMETER);
    WASI(new_codec(1, at("server.test"), 11), PARAMETER);
    WASI(new_codec(-1, at("server.test"), 11), PARAMETER);
    WASI(new_codec(0, at("server.test"), -1), PARAMETER);
    WASI(new_codec(0, end() - 1, 2), PARAMETER);
    WASI(new_codec(0, end(), 1), PARAMETER);
    WASI(new_codec(0, -1, 1), PARAMETER);
    WASI(new_codec(0, -1, -1), PARAMETER);
}

static void places(int codec) {
    int (*calls[])(int, int, int) = {write_raw, read_raw, write_tls, read_tls};
    for (int i = 0; i < 4; i++) {
        WASI(calls[i](codec, end() - 1, 2), PARAMETER);
        WASI(calls[i](codec, end() + 1, 0), PARAMETER);
        WASI(calls[i](codec, -1, 2), PARAMETER);
        WASI(calls[i](codec, 0, -1), PARAMETER);
        WASI(calls[i](codec, -1, -1), PARAMETER);
    }
    WASI(process_new_packets(codec, end() - 11), PARAMETER);
    WASI(process_new_packets(codec, -4), PARAMETER);
    WASI(process_new_packets(codec, end() - 12), 0);
}

static void handshake(void) {
    int codec = open_codec("server.test");
    WASI(codec_is_handshaking(codec), 1);
    WASI(codec_wants(codec), 2);
    places(codec);
    WASI(codec_wants(codec), 2);
    /* What has gone out does not come again, and the first two bytes of TLS are as they should be. */
    WASI(write_tls(codec, at(buffer), 0), 0);
    WASI(write_tls(codec, at(buffer), 1), 1);
    WASI(buffer[0], 0x16);
    WASI(write_tls(codec, end() - 1, 1), 1);
    WASI(*(char *)(intptr_t)(end() - 1), 3);
    WASI(write_tls(codec, BUFFER) > 100, 1);
    WASI(write_tls(codec, BUFFER), 0);
    WASI(codec_wants(codec), 1);
    WASI(read_raw(codec, BUFFER), WOULD_BLOCK);
    /* Plain text waits for the handshake, so much of it. */
    int taken = write_raw(codec, BUFFER);
    WASI(taken > 0 && taken < (int)sizeof(buffer), 1);
    WASI(write_raw(codec, BUFFER), 0);
    WASI(write_tls(codec, BUFFER), 0);
    WASI(send_close_notify(codec), 0);
    WASI(delete_codec(codec), 0);
}

static void nonsense(void) {
    int codec = open_codec("server.test");
    WASI(read_tls(codec, at("220 mail.example ESMTP\r\n"), 24), 24);
    WASI(process_new_packets(codec, at(buffer)), CORRUPT);
    WASI(process_new_packets(codec, at(buffer)), CORRUPT);
    /* There is an alert to be sent. */
    WASI(codec_wants(codec) & 2, 2);
    delete_codec(codec);
    codec = open_codec("server.test");
    /* The socket has ended. */
    WASI(read_tls(codec, at(buffer), 0), 0);
    memset(buffer, 0x55, 16);
    WASI(process_new_packets(codec, at(buffer)), 0);
    WASI(buffer[8] | buffer[9] | buffer[10] | buffer[11], 0);
    WASI(buffer[12], 0x55);
    WASI(read_raw(codec, BUFFER), IO);
    delete_codec(codec);
}

static void request(const char *host, int port, const char *body) {
    send_data(at(host), strlen(host), port, at(body), strlen(body));
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "rustls")) {
        numbers();
        names();
        handshake();
        nonsense();
        return ok();
    }
    if (!strcmp(what, "nothing")) {
        /* Nothing has been received, which fits even at the end of the memory. */
        get_rcv(end());
        WASI(get_rcv_len(), 0);
        return ok();
    }
    puts("before");
    fflush(stdout);
    if (!strcmp(what, "host")) send_data(end() - 1, 2, 443, at("x"), 1);
    if (!strcmp(what, "host-length")) send_data(at("x"), -1, 443, at("x"), 1);
    if (!strcmp(what, "body")) send_data(at("localhost"), 9, 443, end() - 1, 2);
    if (!strcmp(what, "body-length")) send_data(at("localhost"), 9, 443, at("x"), -1);
    if (!strcmp(what, "reply")) get_rcv(end() + 1);
    if (!strcmp(what, "port")) request("localhost", 65536, "x");
    if (!strcmp(what, "negative-port")) request("localhost", -1, "x");
    if (!strcmp(what, "name")) request("a b", 443, "x");
    if (!strcmp(what, "no-name")) request("", 443, "x");
    if (!strcmp(what, "bytes")) request("\xff\xfe", 443, "x");
    if (!strcmp(what, "unknown")) request("nobody.invalid", 443, "x");
    puts("after");
    return 0;
}
