/*
 * A netdump client in one file: sends a file of memory to a dump server, over AF_PACKET.
 *
 * It is what a dying kernel would run, as an ordinary program: it makes its own Ethernet frames,
 * asks by ARP where the server or the gateway is, and answers for its own address. The kernel of
 * the machine that it runs on is to have no address on that interface.
 *
 *     HERALD (to port 20023) -> VMCORE, in batches of at most 64 -> KDH -> FINISHED
 *
 * Every message has a sequence number, and the server acknowledges each by a datagram of four
 * bytes. A batch is sent, its acks are collected, what is not acknowledged is sent again; only then
 * comes the next. The first ack tells the server's port for all that follows.
 *
 * Rules: every wait has an end. A frame is believed only if it was meant for this MAC, its
 * checksums are right, it comes from the server, and it acknowledges what is outstanding.
 *
 * Exit status: 0 = the server has acknowledged all of it. Else one line on stderr, and 1 (the dump
 * failed), 2 (the command line is wrong) or 3 (this machine refused something).
 *
 * -DACK_BITMAP_32 makes the mistake that FreeBSD's client makes: see ack_bit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netpacket/packet.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { FAILED = 1, USAGE = 2, LACKS = 3 };                   /* exit statuses */
enum { HERALD = 1, FINISHED = 2, VMCORE = 3, KDH = 4 };      /* message types */
enum { HERALD_PORT = 20023, CLIENT_PORT = 20024 };
enum { ETH = 14, IP = 20, UDP = 8, MESSAGE = 24, ARP = 28 }; /* sizes of headers */
enum { AT_UDP = ETH + IP, AT_MESSAGE = AT_UDP + UDP, HEADERS = AT_MESSAGE + MESSAGE };
enum { SMALLEST_FRAME = 60, LARGEST_FRAME = 9000 + ETH };
/* netdumpd takes no more than 4096 bytes a message; FreeBSD's buffer has 64 KiB. */
enum { PAGE = 4096, MAX_PAYLOAD = 4096, CHUNK = 64 << 10, WINDOW = 64, KDH_SIZE = 512 };
enum { ARP_TRIES = 15, ARP_WAIT_MS = 200, TRIES = 12, PATIENCE = 20 };

static const uint8_t broadcast[6] = {255, 255, 255, 255, 255, 255};

static int wire;
static uint8_t my_mac[6], next_hop[6];
static uint32_t my_ip, server_ip; /* addresses and ports in host order */
static uint16_t server_port = HERALD_PORT;
static bool server_answered;
static unsigned max_payload;
static unsigned wait_ms; /* for the acks of a batch, before what lacks one is sent again */
static uint32_t seqno; /* of the first message that is outstanding */

static _Noreturn void fail(int status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("netdump: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(status);
}

static void put16(uint8_t *at, uint16_t v) { at[0] = v >> 8; at[1] = v & 255; }
static void put32(uint8_t *at, uint32_t v) { put16(at, v >> 16); put16(at + 2, v & 0xffff); }
static void put64(uint8_t *at, uint64_t v) { put32(at, v >> 32); put32(at + 4, v & 0xffffffff); }
static uint16_t get16(const uint8_t *at) { return at[0] << 8 | at[1]; }
static uint32_t get32(const uint8_t *at) { return (uint32_t)get16(at) << 16 | get16(at + 2); }

/* The ones' complement sum of 16-bit words (RFC 1071), on top of what was summed before. */
static uint16_t sum16(uint32_t sum, const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? bytes[i] : (uint32_t)bytes[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

/* Of a whole UDP datagram in an IPv4 packet, with its pseudo-header. Right ones make 0xffff. */
static uint16_t udp_sum(const uint8_t *packet, uint16_t udp_length)
{
    return sum16(sum16(IPPROTO_UDP + udp_length, packet + 12, 8), packet + IP, udp_length);
}

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* ---- frames ---------------------------------------------------------------------------------- */

static void transmit(uint8_t *frame, size_t length, const uint8_t *to, uint16_t ethertype)
{
    memcpy(frame, to, 6);
    memcpy(frame + 6, my_mac, 6);
    put16(frame + 12, ethertype);
    if (length < SMALLEST_FRAME) {
        memset(frame + length, 0, SMALLEST_FRAME - length);
        length = SMALLEST_FRAME;
    }
    /* A full queue is a frame lost: it is sent again. */
    if (send(wire, frame, length, 0) < 0 && errno != ENOBUFS && errno != EAGAIN && errno != EINTR)
        fail(LACKS, "sending a frame of %zu bytes: %s", length, strerror(errno));
}

static void send_arp(uint16_t operation, const uint8_t *to, uint32_t ip)
{
    uint8_t frame[SMALLEST_FRAME], *arp = frame + ETH;
    put32(arp, 1 << 16 | ETHERTYPE_IP); /* Ethernet, and IPv4 */
    put16(arp + 4, 6 << 8 | 4);
    put16(arp + 6, operation);
    memcpy(arp + 8, my_mac, 6);
    put32(arp + 14, my_ip);
    memcpy(arp + 18, to, 6);
    put32(arp + 24, ip);
    transmit(frame, ETH + ARP, to, ETHERTYPE_ARP);
}

static bool is_arp(const uint8_t *frame, size_t length, uint16_t operation)
{
    const uint8_t *arp = frame + ETH;
    return length >= ETH + ARP && get16(frame + 12) == ETHERTYPE_ARP
        && get32(arp) == (1 << 16 | ETHERTYPE_IP) && get16(arp + 4) == (6 << 8 | 4)
        && get16(arp + 6) == operation && get32(arp + 24) == my_ip;
}

/* The next frame that was meant for us; 0 when the time is over. Answers who asks for our MAC. */
static size_t hear(uint8_t *frame, int64_t until_ms)
{
    for (;;) {
        int64_t left = until_ms - now_ms();
        struct pollfd waiting = {.fd = wire, .events = POLLIN};
        if (left <= 0 || poll(&waiting, 1, (int)left) == 0)
            return 0;
        ssize_t length = recv(wire, frame, LARGEST_FRAME, MSG_DONTWAIT);
        if (length < 0 && errno != EAGAIN && errno != EINTR)
            fail(LACKS, "hearing a frame: %s", strerror(errno));
        if (length < ETH)
            continue;
        bool mine = memcmp(frame, my_mac, 6) == 0;
        if (is_arp(frame, length, 1) && (mine || memcmp(frame, broadcast, 6) == 0))
            send_arp(2, frame + ETH + 8, get32(frame + ETH + 14));
        else if (mine)
            return length;
    }
}

static void find(uint32_t ip)
{
    uint8_t frame[LARGEST_FRAME];
    for (int tries = 0; tries < ARP_TRIES; tries++) {
        int64_t until = now_ms() + ARP_WAIT_MS;
        send_arp(1, broadcast, ip);
        for (size_t length; (length = hear(frame, until));)
            if (is_arp(frame, length, 2) && get32(frame + ETH + 14) == ip
                && memcmp(frame + ETH + 18, my_mac, 6) == 0) {
                memcpy(next_hop, frame + ETH + 8, 6);
                return;
            }
    }
    struct in_addr who = {htonl(ip)};
    fail(FAILED, "no ARP reply from %s", inet_ntoa(who));
}

/* ---- messages and acks ----------------------------------------------------------------------- */

static void send_message(uint32_t type, uint32_t number, uint64_t offset, const uint8_t *bytes,
                         unsigned length)
{
    static uint8_t frame[HEADERS + MAX_PAYLOAD];
    uint8_t *ip = frame + ETH, *udp = frame + AT_UDP, *message = frame + AT_MESSAGE;
    uint16_t udp_length = UDP + MESSAGE + length;

    memset(frame, 0, HEADERS);
    put16(ip, 0x4500);
    put16(ip + 2, IP + udp_length);
    put16(ip + 6, 0x4000); /* don't fragment */
    put16(ip + 8, 255 << 8 | IPPROTO_UDP);
    put32(ip + 12, my_ip);
    put32(ip + 16, server_ip);
    put16(ip + 10, ~sum16(0, ip, IP));
    put16(udp, CLIENT_PORT);
    put16(udp + 2, server_port);
    put16(udp + 4, udp_length);
    put32(message, type);
    put32(message + 4, number);
    put64(message + 8, offset);
    put32(message + 16, length);
    if (length)
        memcpy(frame + HEADERS, bytes, length);
    uint16_t sum = ~udp_sum(ip, udp_length);
    put16(udp + 6, sum ? sum : 0xffff);
    transmit(frame, HEADERS + length, next_hop, ETHERTYPE_IP);
}

/* Which of `count` outstanding messages a frame acknowledges; -1 if it is no such ack. */
static int acknowledged(const uint8_t *frame, size_t length, unsigned count)
{
    enum { ACK = 4, DATAGRAM = UDP + ACK };
    const uint8_t *ip = frame + ETH, *udp = frame + AT_UDP;
    /* No options, no fragment, and no more bytes than an ack has. Ethernet's padding may follow. */
    if (length < AT_UDP + DATAGRAM || get16(frame + 12) != ETHERTYPE_IP || ip[0] != 0x45
        || get16(ip + 2) != IP + DATAGRAM || (get16(ip + 6) & 0x3fff) || ip[9] != IPPROTO_UDP
        || sum16(0, ip, IP) != 0xffff)
        return -1;
    if (get32(ip + 12) != server_ip || get32(ip + 16) != my_ip || get16(udp + 2) != CLIENT_PORT
        || (server_answered && get16(udp) != server_port))
        return -1;
    /* A datagram without a checksum (0) proves nothing. */
    if (get16(udp + 4) != DATAGRAM || !get16(udp + 6) || udp_sum(ip, DATAGRAM) != 0xffff)
        return -1;
    uint32_t index = get32(udp + UDP) - seqno;
    if (index >= count)
        return -1;
    server_answered = true; /* only an ack of our HERALD can be the first */
    server_port = get16(udp);
    return (int)index;
}

/* The bit of a batch's message in the bitmap of acks. */
static uint64_t ack_bit(unsigned index)
{
#ifdef ACK_BITMAP_32
    /*
     * FreeBSD (sys/net/debugnet.c) writes `1 << index`: a 32-bit one. On amd64 and arm64 the shift
     * counts modulo 32, and bit 31 is extended by its sign. So the ack of message 32 + k counts for
     * message k: if one of the two is lost, it is never sent again.
     */
    return (uint64_t)(int64_t)(int32_t)((uint32_t)1 << index % 32);
#else
    return (uint64_t)1 << index;
#endif
}

/* Sends bytes of one type as a batch; returns when all of them are acknowledged. */
static void deliver(uint32_t type, uint64_t offset, const uint8_t *bytes, unsigned length)
{
    static uint8_t frame[LARGEST_FRAME];
    unsigned count = length ? (length + max_payload - 1) / max_payload : 1;
    unsigned wait = wait_ms;
    uint64_t wanted = 0, had = 0;

    for (unsigned i = 0; i < count; i++)
        wanted |= ack_bit(i);
    /* A round that brought an ack is no try: there are at most 64 of those. One that brought none
     * doubles the wait, up to PATIENCE times: frames get lost, but a server can be busy, too. */
    for (int tries = 0; tries < TRIES && had != wanted; tries++) {
        for (unsigned i = 0; i < count; i++) {
            unsigned at = i * max_payload, rest = length - at;
            if (!(had & ack_bit(i)))
                send_message(type, seqno + i, offset + at, bytes + at,
                             rest < max_payload ? rest : max_payload);
        }
        int64_t until = now_ms() + wait;
        uint64_t before = had;
        for (size_t heard; had != wanted && (heard = hear(frame, until));) {
            int index = acknowledged(frame, heard, count);
            if (index >= 0)
                had |= ack_bit(index);
        }
        wait = wait < PATIENCE / 2 * wait_ms ? wait * 2 : PATIENCE * wait_ms;
        if (had != before) {
            tries = -1;
            wait = wait_ms;
        }
    }
    if (had != wanted)
        fail(FAILED, "no ack of message type %u, seqno %u, offset %llu, in %d tries", type, seqno,
             (unsigned long long)offset, TRIES);
    seqno += count;
}

/* ---- the dump -------------------------------------------------------------------------------- */

/* The kernel dump header, version 4 (FreeBSD sys/sys/kerneldump.h); all integers big-endian. */
static void make_header(uint8_t *kdh, uint64_t length)
{
    memset(kdh, 0, KDH_SIZE);
    strcpy((char *)kdh, "FreeBSD Kernel Dump");
    strcpy((char *)kdh + 20, "amd64");
    put32(kdh + 32, 4);                       /* version */
    put32(kdh + 36, 2);                       /* the architecture's */
    put64(kdh + 40, length);
    put64(kdh + 48, (uint64_t)time(NULL));
    put32(kdh + 60, PAGE);                    /* block size */
    strcpy((char *)kdh + 64, "c-client");     /* host */
    strcpy((char *)kdh + 128, "netdump.c\n"); /* kernel */
    strcpy((char *)kdh + 320, "dumped by a program, not by a panic");
    put64(kdh + 496, length);                 /* extent */
    uint32_t parity = 0;
    for (int at = 0; at < KDH_SIZE; at += 4)
        parity ^= get32(kdh + at);
    put32(kdh + KDH_SIZE - 4, parity);
}

static void dump(int file, uint64_t size)
{
    static uint8_t chunk[CHUNK];
    uint8_t kdh[KDH_SIZE];
    /* Whole pages, and no more messages than the bitmap has bits. */
    unsigned room = max_payload * WINDOW / PAGE * PAGE, step = room < CHUNK ? room : CHUNK;

    deliver(HERALD, 0, NULL, 0);
    for (uint64_t at = 0; at < size; at += step) {
        unsigned length = size - at < step ? (unsigned)(size - at) : step;
        if (pread(file, chunk, length, (off_t)at) != (ssize_t)length)
            fail(LACKS, "reading memory at %llu: it became shorter", (unsigned long long)at);
        deliver(VMCORE, at, chunk, length);
    }
    make_header(kdh, size);
    deliver(KDH, 0, kdh, KDH_SIZE);
    deliver(FINISHED, 0, NULL, 0);
}

/* ---- the command line ------------------------------------------------------------------------ */

static uint32_t address(const char *option, const char *text)
{
    struct in_addr found;
    if (inet_pton(AF_INET, text, &found) != 1)
        fail(USAGE, "--%s %s: not an IPv4 address", option, text);
    return ntohl(found.s_addr);
}

static unsigned number(const char *option, const char *text, unsigned least, unsigned most)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    if (!*text || *end || value < least || value > most)
        fail(USAGE, "--%s %s: not a number from %u to %u", option, text, least, most);
    return (unsigned)value;
}

static void open_wire(const char *interface)
{
    struct sockaddr_ll place = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    struct timeval bound = {.tv_sec = 1};
    int room = 1 << 20;

    place.sll_ifindex = (int)if_nametoindex(interface);
    if (!place.sll_ifindex)
        fail(USAGE, "--interface %s: %s", interface, strerror(errno));
    /* Protocol 0 hears nothing until the socket is bound to the one interface. */
    wire = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (wire < 0 || bind(wire, (struct sockaddr *)&place, sizeof place) < 0)
        fail(LACKS, "a packet socket on %s: %s", interface, strerror(errno));
    setsockopt(wire, SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
    setsockopt(wire, SOL_SOCKET, SO_SNDTIMEO, &bound, sizeof bound);
}

int main(int argc, char **argv)
{
    enum { INTERFACE, MAC, ADDRESS, SERVER, GATEWAY, MTU, WAIT, OPTIONS };
    static const struct option options[] = {
        {"interface", required_argument, NULL, INTERFACE}, {"mac", required_argument, NULL, MAC},
        {"address", required_argument, NULL, ADDRESS}, {"server", required_argument, NULL, SERVER},
        {"gateway", required_argument, NULL, GATEWAY}, {"mtu", required_argument, NULL, MTU},
        {"wait", required_argument, NULL, WAIT}, {NULL, 0, NULL, 0}};
    char *given[OPTIONS] = {[GATEWAY] = "", [MTU] = "1500", [WAIT] = "50"};
    struct stat status;
    int option, end = 0;

    while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
        if (option >= OPTIONS)
            return USAGE; /* getopt has said what is wrong */
        given[option] = optarg;
    }
    for (option = 0; option < OPTIONS; option++)
        if (!given[option])
            fail(USAGE, "--%s is missing", options[option].name);
    if (argc - optind != 1)
        fail(USAGE, "name one FILE of memory, after the options");

    uint8_t *m = my_mac;
    if (sscanf(given[MAC], "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", m, m + 1, m + 2, m + 3, m + 4,
               m + 5, &end) != 6 || given[MAC][end])
        fail(USAGE, "--mac %s: write it as 02:00:00:00:00:02", given[MAC]);
    my_ip = address("address", given[ADDRESS]);
    char *port = strchr(given[SERVER], ':');
    if (port) {
        *port++ = '\0';
        server_port = (uint16_t)number("server", port, 1, 65535);
    }
    server_ip = address("server", given[SERVER]);
    max_payload = number("mtu", given[MTU], 576, 9000) - IP - UDP - MESSAGE;
    if (max_payload > MAX_PAYLOAD)
        max_payload = MAX_PAYLOAD;
    wait_ms = number("wait", given[WAIT], 1, 60000);

    int file = open(argv[optind], O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) < 0)
        fail(USAGE, "%s: %s", argv[optind], strerror(errno));
    if (status.st_size <= 0 || status.st_size % PAGE)
        fail(USAGE, "%s: memory is whole pages of %d bytes", argv[optind], PAGE);

    open_wire(given[INTERFACE]);
    seqno = 1; /* as FreeBSD's kernel: that is how a server knows whom it may have to save */
#ifndef ACK_BITMAP_32
    /* Drawn: who can't see our frames can't guess the acks. */
    if (getrandom(&seqno, sizeof seqno, 0) != sizeof seqno)
        fail(LACKS, "getrandom: %s", strerror(errno));
    seqno = 2 + seqno % (1u << 31);
#endif
    find(*given[GATEWAY] ? address("gateway", given[GATEWAY]) : server_ip);
    dump(file, (uint64_t)status.st_size);
    return 0;
}
