/*
 * An e1000 driver of C with an ordinary life of its own, for the tests: the polled path is that of
 * examples/c-driver. Small rings in ordinary memory, one descriptor a frame. Built with -DCHATTY its
 * handler waits for an interrupt, too: so calls of the bench nest in callbacks of the library.
 */
#define netdump_bench_driver polled_driver
#include "e1000_polled.c"
#undef netdump_bench_driver

enum { RING = 8, ICS = 0x00c8, CTRL_RST = 1 << 26, ICR_RXT0 = 1 << 7, ICR_RXDMT0 = 1 << 4 };
extern const struct nb_driver netdump_bench_driver;

static volatile struct tx_descriptor *live_tx;
static volatile struct rx_descriptor *live_rx;
static uint8_t *live_tx_buffers, *live_rx_buffers;
static uint64_t live_tx_at, live_rx_at, live_tx_buffers_at, live_rx_buffers_at;
static uint32_t live_tail, live_used, live_next;

static void step_wr(uint32_t at, uint32_t value)
{
    k->step(k->ctx, "write a register");
    wr(at, value);
}

static void lock(const char *name, const char *step)
{
    k->step(k->ctx, step);
    k->lock(k->ctx, name);
}

static void unlock(const char *name, const char *step)
{
    k->step(k->ctx, step);
    k->unlock(k->ctx, name);
}

static int life_attach(void *softc)
{
    uint32_t i;

    (void)softc;
    live_tx = k->alloc(k->ctx, RING * sizeof(*live_tx), SLOT, &live_tx_at);
    live_rx = k->alloc(k->ctx, RING * sizeof(*live_rx), SLOT, &live_rx_at);
    live_tx_buffers = k->alloc(k->ctx, RING * BUFFER, BUFFER, &live_tx_buffers_at);
    live_rx_buffers = k->alloc(k->ctx, RING * BUFFER, BUFFER, &live_rx_buffers_at);
    memset((void *)live_tx, 0, RING * sizeof(*live_tx));
    memset((void *)live_rx, 0, RING * sizeof(*live_rx));
    for (i = 0; i < RING; i++)
        live_rx[i].address = live_rx_buffers_at + i * BUFFER;
    step_wr(IMC, 0xffffffff);
    step_wr(CTRL, rd(CTRL) | CTRL_RST);
    k->delay(k->ctx, 5000);
    step_wr(IMC, 0xffffffff);
    rd(ICR);
    step_wr(CTRL, rd(CTRL) | CTRL_SLU | CTRL_ASDE);
    step_wr(TDBAL, (uint32_t)live_tx_at);
    step_wr(TDBAH, live_tx_at >> 32);
    step_wr(TDLEN, RING * sizeof(*live_tx));
    step_wr(TDH, 0);
    step_wr(TDT, 0);
    step_wr(TXDCTL, TXDCTL_GRAN);
    step_wr(TIPG, TIPG_COPPER);
    step_wr(TCTL, TCTL_ON);
    step_wr(RDBAL, (uint32_t)live_rx_at);
    step_wr(RDBAH, live_rx_at >> 32);
    step_wr(RDLEN, RING * sizeof(*live_rx));
    step_wr(RDH, 0);
    step_wr(RDT, RING - 1);
    step_wr(RCTL, RCTL_EN | RCTL_BAM | RCTL_SECRC | (k->promiscuous ? RCTL_UPE | RCTL_MPE : 0));
    step_wr(IMS, ICR_TXDW | ICR_RXT0 | ICR_RXDMT0);
    return 0;
}

static uint32_t life_send(void *softc, const struct nb_frame *frames, uint32_t count)
{
    uint32_t taken;

    (void)softc;
    lock("em0:tx", "lock em0:tx");
    for (taken = 0; taken < count && live_used < RING - 1; taken++) {
        volatile struct tx_descriptor *d = &live_tx[live_tail];

        k->step(k->ctx, "take mbuf");
        if (!k->mbuf_take(k->ctx, NB_ORDINARY, 1))
            break;
        memcpy(live_tx_buffers + live_tail * BUFFER, frames[taken].header,
               frames[taken].header_length);
        k->step(k->ctx, "write TX descriptor");
        d->address = live_tx_buffers_at + live_tail * BUFFER;
        d->length = frames[taken].header_length;
        d->status = 0;
        k->step(k->ctx, "arm TX descriptor");
        d->command = IFCS | EOP | RS;
        live_tail = (live_tail + 1) % RING;
        live_used++;
    }
    if (taken)
        step_wr(TDT, live_tail);
    unlock("em0:tx", "unlock em0:tx");
    return taken;
}

static void life_interrupt(void *softc)
{
    uint32_t done = 0;

    (void)softc;
    k->step(k->ctx, "read ICR");
    if (!rd(ICR))
        return;
    lock("em0:tx", "lock em0:tx");
    while (live_used && live_tx[(live_tail + RING - live_used) % RING].status & DD) {
        k->step(k->ctx, "free mbuf");
        k->mbuf_give(k->ctx, NB_ORDINARY, 1);
        live_used--;
    }
    unlock("em0:tx", "unlock em0:tx");
    lock("em0:rx", "lock em0:rx");
    while (live_rx[live_next].status & DD) {
        k->step(k->ctx, "read RX descriptor");
        k->receive(k->ctx, live_rx_buffers + live_next * BUFFER, live_rx[live_next].length);
        live_rx[live_next].status = 0;
        live_next = (live_next + 1) % RING;
        done++;
    }
    if (done)
        step_wr(RDT, (live_next + RING - 1) % RING);
    unlock("em0:rx", "unlock em0:rx");
#ifdef CHATTY
    k->wait_interrupt(k->ctx, 10);
#endif
}

const struct nb_driver netdump_bench_driver = {
    .version = NB_VERSION, .size = sizeof(struct nb_driver), .name = "living",
    .init = em_init, .mac = em_mac, .link_up = em_link_up,
    .event = em_event, .transmit = em_transmit, .poll = em_poll,
    .attach = life_attach, .send = life_send, .interrupt = life_interrupt,
};
