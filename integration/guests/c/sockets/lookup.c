/* lookup NODE SERVICE [FAMILY [FLAGS [SOCKTYPE [PROTOCOL]]]]: prints an error's number, or the records that were filled. */
#include "sockets.h"

enum { RECORDS = 16, ROOM = 256 };

static addrinfo records[RECORDS], *list = records;
static sockaddr addresses[RECORDS];
static uint8_t data[RECORDS][26];
static char names[RECORDS][ROOM];

static int argument(int argc, char **argv, int n) { return argc > n ? atoi(argv[n]) : 0; }

int main(int argc, char **argv) {
    for (int i = 0; i < RECORDS; i++) {
        /* As the published crate does: 14, whatever there is room for. */
        addresses[i] = (sockaddr){.data_len = 14, .data = data[i]};
        records[i] = (addrinfo){.addr = &addresses[i], .canonname = names[i], .canonname_len = ROOM};
        if (i) records[i - 1].next = &records[i];
    }
    addrinfo hints = {
        .family = argument(argc, argv, 3),
        .flags = argument(argc, argv, 4),
        .socktype = argument(argc, argv, 5),
        .protocol = argument(argc, argv, 6),
    };
    uint32_t found = 0;
    /* With the NUL, as the crate does. */
    int error = sock_getaddrinfo(argv[1], strlen(argv[1]) + 1, argv[2], strlen(argv[2]) + 1, &hints, &list, RECORDS, &found);
    if (error) {
        printf("error %d\n", error);
        return 0;
    }
    for (addrinfo *it = list; it && found; it = it->next, found--) {
        uint8_t *octets = it->addr->data;
        CHECK(it->addr->family == it->family && it->addrlen == (it->family == INET4 ? 16 : 28));
        CHECK(it->addr->data_len == (it->family == INET4 ? 14 : 26));
        printf("%s %d", it->socktype == STREAM ? "stream" : "dgram", it->protocol);
        printf(" %d ", octets[0] << 8 | octets[1]);
        if (it->family == INET4) {
            printf("%d.%d.%d.%d", octets[2], octets[3], octets[4], octets[5]);
        } else {
            for (int i = 6; i < 22; i += 2) printf("%s%x", i > 6 ? ":" : "", octets[i] << 8 | octets[i + 1]);
        }
        printf("%s%s\n", it->canonname_len ? " " : "", it->canonname_len ? it->canonname : "");
    }
    return 0;
}
