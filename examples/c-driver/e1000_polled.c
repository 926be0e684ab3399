/*
 * e1000_polled.c: the polled path of a driver for Intel's 8254x, for netdump_bench.h.
 *
 * Numbers in brackets are sections of the 8254x Software Developer's Manual. Three rules:
 *
 *   1. The rings of ordinary life may be in any state: they are left alone. The card is stopped, and
 *      gets rings of the panic arena, which init() reserved.
 *   2. After that only TDT and RDT are written; what was done is read from DD in memory.
 *   3. Nothing is allocated and nothing waits, but for the 10 ms in which old DMA ends.
 *
 * Built with one of these it has a defect, for you to see how the bench tells it:
 *   -DWAIT_FOR_INTERRUPT   waits for the transmit interrupt, which nobody delivers in a panic
 *   -DFORGET_RECLAIM       never frees what was sent: the ring fills, and stays full
 *   -DWILD_STORE           stores through a wild pointer
 *   -DSTRAY_STORE          stores to memory that is being dumped
 *   -DHANG                 loops for a bit that never comes
 */
#include "netdump_bench.h"

#include <string.h>

enum { /* registers [13.3] */
    CTRL = 0x0000, STATUS = 0x0008, ICR = 0x00c0, IMS = 0x00d0, IMC = 0x00d8, RCTL = 0x0100,
    TCTL = 0x0400, TIPG = 0x0410, RDBAL = 0x2800, RDBAH = 0x2804, RDLEN = 0x2808, RDH = 0x2810,
    RDT = 0x2818, RDTR = 0x2820, RADV = 0x282c, ITR = 0x00c4, RXCSUM = 0x5000, TDBAL = 0x3800,
    TDBAH = 0x3804, TDLEN = 0x3808, TDH = 0x3810, TDT = 0x3818, TIDV = 0x3820, TXDCTL = 0x3828,
    TADV = 0x382c, RAL0 = 0x5400, RAH0 = 0x5404
};
enum { /* their bits */
    CTRL_ASDE = 1 << 5, CTRL_SLU = 1 << 6, STATUS_LU = 1 << 1, ICR_TXDW = 1 << 0,
    RCTL_EN = 1 << 1, RCTL_UPE = 1 << 3, RCTL_MPE = 1 << 4, RCTL_BAM = 1 << 15, RCTL_SECRC = 1 << 26,
    TCTL_ON = 1 << 1 | 1 << 3 | 0x0f << 4 | 0x40 << 12, /* EN, PSP, CT, COLD [14.5] */
    TIPG_COPPER = 8 | 8 << 10 | 6 << 20, TXDCTL_GRAN = 1 << 24
};
enum { EOP = 1, IFCS = 2, RS = 8, DD = 1, RX_EOP = 2 }; /* of descriptors [3.2.3, 3.3.3] */
enum { SLOT = 128, BUFFER = 2048, BOUNCE = 16384, QUIESCE_US = 10000, MBUFS_A_FRAME = 2 };

struct tx_descriptor { uint64_t address; uint16_t length; uint8_t cso, command, status, css;
                       uint16_t special; };
struct rx_descriptor { uint64_t address; uint16_t length, checksum; uint8_t status, errors;
                       uint16_t special; };

static const struct nb_kernel *k;
static volatile struct tx_descriptor *tx; /* volatile: the card writes to them, too */
static volatile struct rx_descriptor *rx;
static uint8_t *headers, *buffers, *bounce; /* a slot a descriptor; a buffer a descriptor */
static uint64_t tx_at, rx_at, headers_at, buffers_at, bounce_at;
static uint32_t tx_tail, tx_used, rx_next, in_flight, promiscuous;

static uint32_t rd(uint32_t at) { return k->read32(k->ctx, at); }
static void wr(uint32_t at, uint32_t value) { k->write32(k->ctx, at, value); }

static void enter(const char *lock)
{
    (k->locked ? k->lock : k->bypass)(k->ctx, lock);
}

static void leave(const char *lock)
{
    if (k->locked)
        k->unlock(k->ctx, lock);
}

static int em_init(const struct nb_kernel *kernel, void **softc)
{
    k = kernel;
    *softc = NULL;
    tx = k->reserve(k->ctx, k->tx_ring * sizeof(*tx), SLOT, &tx_at);
    rx = k->reserve(k->ctx, k->rx_ring * sizeof(*rx), SLOT, &rx_at);
    headers = k->reserve(k->ctx, k->tx_ring * SLOT, SLOT, &headers_at);
    buffers = k->reserve(k->ctx, (uint64_t)k->rx_ring * BUFFER, BUFFER, &buffers_at);
    bounce = k->reserve(k->ctx, BOUNCE, SLOT, &bounce_at);
    return 0;
}

static int em_mac(void *softc, uint8_t address[6])
{
    uint32_t low = rd(RAL0), high = rd(RAH0);

    (void)softc;
    memcpy(address, &low, 4);
    memcpy(address + 4, &high, 2);
    return high >> 31 ? 0 : 6 /* ENXIO */; /* AV: the address is valid [13.5.3] */
}

static int em_link_up(void *softc)
{
    (void)softc;
    return (rd(STATUS) & STATUS_LU) != 0;
}

/* Free what the card has read, in order. */
static void em_reclaim(void)
{
#ifndef FORGET_RECLAIM
    uint32_t frames = 0, first, last;

    while (tx_used) {
        first = last = (tx_tail + k->tx_ring - tx_used) % k->tx_ring;
        if (!(tx[first].command & EOP))
            last = (first + 1) % k->tx_ring; /* header and payload */
        if (!(tx[last].status & DD))
            break;
        tx_used -= last == first ? 1 : 2;
        frames++;
    }
    in_flight -= frames;
    if (frames)
        k->mbuf_give(k->ctx, NB_SENT, MBUFS_A_FRAME * frames);
#endif
}

static void em_event(void *softc, int start)
{
    uint32_t i;

    (void)softc;
    if (!start) { /* nothing more is to be written to memory */
        wr(RCTL, 0);
        return;
    }
    enter("em0:tx");
    enter("em0:rx");
    wr(IMC, 0xffffffff);
    rd(ICR);
    promiscuous |= rd(RCTL) & (RCTL_UPE | RCTL_MPE);
    wr(RCTL, 0);
    wr(TCTL, 0);
    rd(STATUS); /* flushes the posted writes */
    k->delay(k->ctx, QUIESCE_US);
    if (in_flight) /* of an attempt before this one */
        k->mbuf_give(k->ctx, NB_SENT, MBUFS_A_FRAME * in_flight);
    tx_tail = tx_used = in_flight = rx_next = 0;
    memset((void *)tx, 0xff, k->tx_ring * sizeof(*tx));
    memset((void *)rx, 0, k->rx_ring * sizeof(*rx));
    for (i = 0; i < k->rx_ring; i++)
        rx[i].address = buffers_at + (uint64_t)i * BUFFER;
    if (!(rd(CTRL) & CTRL_SLU))
        wr(CTRL, rd(CTRL) | CTRL_SLU | CTRL_ASDE);
    /* Transmit, EN last [14.5]. */
    wr(TDBAL, (uint32_t)tx_at);
    wr(TDBAH, tx_at >> 32);
    wr(TDLEN, k->tx_ring * sizeof(*tx));
    wr(TDH, 0);
    wr(TDT, 0);
    wr(TIDV, 0);
    wr(TADV, 0);
    wr(TXDCTL, TXDCTL_GRAN);
    wr(TIPG, TIPG_COPPER);
    wr(TCTL, TCTL_ON);
    /* Receive, control last and once [14.4]. */
    wr(RDTR, 0);
    wr(RADV, 0);
    wr(ITR, 0);
    wr(RXCSUM, 0);
    wr(RDBAL, (uint32_t)rx_at);
    wr(RDBAH, rx_at >> 32);
    wr(RDLEN, k->rx_ring * sizeof(*rx));
    wr(RDH, 0);
    wr(RDT, k->rx_ring - 1);
    wr(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC | promiscuous);
    leave("em0:rx");
    leave("em0:tx");
}

static void put(uint64_t address, uint32_t length, uint8_t command)
{
    volatile struct tx_descriptor *d = &tx[tx_tail];

    d->address = address;
    d->length = length;
    d->cso = d->status = d->css = d->special = 0;
    d->command = command;
    tx_tail = (tx_tail + 1) % k->tx_ring;
    tx_used++;
}

static uint32_t em_transmit(void *softc, const struct nb_frame *frames, uint32_t count)
{
    uint32_t taken;

    (void)softc;
    enter("em0:tx");
    if (tx_used + 2 * count > k->tx_ring - 1)
        em_reclaim();
    for (taken = 0; taken < count; taken++) {
        const struct nb_frame *f = &frames[taken];
        uint64_t payload_at = f->payload_address;

        if (tx_used + 2 > k->tx_ring - 1 || f->header_length > SLOT || f->payload_length > BOUNCE)
            break;
        if (!payload_at && f->payload_length) { /* address 0 transfers nothing [3.3.3.1] */
            memcpy(bounce, f->payload, f->payload_length);
            payload_at = bounce_at;
        }
        memcpy(headers + tx_tail * SLOT, f->header, f->header_length);
        put(headers_at + tx_tail * SLOT, f->header_length, f->payload_length ? IFCS : IFCS | EOP | RS);
        if (f->payload_length)
            put(payload_at, f->payload_length, IFCS | EOP | RS);
    }
    in_flight += taken;
    if (taken)
        wr(TDT, tx_tail);
#ifdef WAIT_FOR_INTERRUPT
    wr(IMS, ICR_TXDW);
    k->wait_interrupt(k->ctx, 100);
#endif
#ifdef HANG
    while (!(tx[(tx_tail + 1) % k->tx_ring].status & 0x100))
        ;
#endif
    leave("em0:tx");
    return taken;
}

static void em_poll(void *softc, uint32_t budget)
{
    uint32_t done;

    (void)softc;
    enter("em0:tx");
    enter("em0:rx");
    em_reclaim();
    for (done = 0; done < budget && rx[rx_next].status & DD; done++) {
        if (rx[rx_next].status & RX_EOP && !rx[rx_next].errors)
            k->receive(k->ctx, buffers + rx_next * BUFFER, rx[rx_next].length);
        rx[rx_next].status = 0;
        rx_next = (rx_next + 1) % k->rx_ring;
    }
    if (done)
        wr(RDT, (rx_next + k->rx_ring - 1) % k->rx_ring);
#ifdef WILD_STORE
    if (done)
        *(volatile uint32_t *)(uintptr_t)0xdead0000 = done;
#endif
#ifdef STRAY_STORE
    if (done)
        k->memory[0x5000] ^= 1;
#endif
    leave("em0:rx");
    leave("em0:tx");
}

const struct nb_driver netdump_bench_driver = {
    .version = NB_VERSION, .size = sizeof(struct nb_driver), .name = "e1000_polled",
    .init = em_init, .mac = em_mac, .link_up = em_link_up,
    .event = em_event, .transmit = em_transmit, .poll = em_poll,
};
