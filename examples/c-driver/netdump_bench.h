/*
 * netdump_bench.h: a NIC driver written in C, on netdump-bench.
 *
 * The bench kills a machine and lets a driver bring its memory home. The driver may be yours: wrap
 * its polled path (in FreeBSD the four debugnet methods, sys/net/debugnet.h) in the functions below,
 * build a shared library, and name it in a scenario:
 *
 *     cc -shared -fPIC -O2 -o mine.so mine.c
 *
 *     [nic]
 *     model  = "e1000"        the card, ours or QEMU's
 *     driver = "mine.so"      beside the scenario's file
 *
 * e1000_polled.c beside this file is a whole one. In an afternoon:
 *
 *   1. Write init(): reserve() all the memory that the panic will need. No register is reachable yet.
 *   2. Write mac(), link_up() and event("start"): take the card over in whatever state it is.
 *   3. Write transmit() and poll(), and event("end").
 *   4. Define  const struct nb_driver netdump_bench_driver = { NB_VERSION, sizeof(...), ... };
 *   5. Leave attach, send and interrupt NULL. Then the bench's own driver of that card lives the
 *      ordinary life, with its rings live and its interrupts on, until the panic; and yours takes
 *      over what it left. Write all three to live that life, too.
 *
 * The library runs in a process of its own, which shares the machine's memory with the bench. Every
 * callback is a question to the bench, of some 50 microseconds; memory costs nothing. One card, one
 * process, one thread: global variables are fine.
 *
 * From the panic on (the first event("start")) the rules are those of a dying kernel. The bench
 * watches, and tells each breach with the name of your function:
 *
 *   - no lock whose owner has stopped: lock() is then a deadlock, and ends the run. bypass() goes
 *     round a lock;
 *   - no memory but what was reserved: alloc() and mbufs of the ordinary allocator are breaches, and
 *     so is each store to memory outside the panic arena;
 *   - no wait_interrupt(): nobody delivers interrupts any more;
 *   - no endless loop: a function that uses 5 s of CPU between two callbacks, sleeps for a minute,
 *     or makes 200,000 callbacks, is ended.
 *
 * A library that crashes (a signal, abort, exit) ends its run, and the verdict says where.
 */
#ifndef NETDUMP_BENCH_H
#define NETDUMP_BENCH_H

#include <stddef.h>
#include <stdint.h>

/* Checked when the library is loaded: another version is refused. */
#define NB_VERSION 1

/* Whose network buffers. Buffers are only counted. */
enum nb_zone {
    NB_ORDINARY = 0,   /* the kernel's allocator */
    NB_PANIC_POOL = 1, /* filled before the panic */
    NB_SENT = 2        /* where the two buffers of each frame of transmit() go back to */
};

/* A frame to send: header, then payload. Both stay as they are until you return; the payload stays
 * until you have given the frame's two buffers back (mbuf_give NB_SENT), and the card may read it
 * where it lies. The header is no memory of the machine: copy it to where the card can read it. */
struct nb_frame {
    const uint8_t *header;    /* Ethernet to the last protocol header; at most 126 bytes as a rule */
    const uint8_t *payload;   /* the same memory as ... */
    uint64_t payload_address; /* ... at this physical address */
    uint32_t header_length;
    uint32_t payload_length;  /* 0: the header is the whole frame */
};

/* What the kernel lends. It is handed to init() and stays valid. Give ctx to each callback. */
struct nb_kernel {
    uint32_t version; /* NB_VERSION of the bench */
    uint32_t size;    /* sizeof(struct nb_kernel) of the bench */
    void *ctx;

    /* The machine's memory: physical address p is at memory + p. */
    uint8_t *memory;
    uint64_t memory_size;

    /* What the scenario wants. */
    uint32_t mtu;         /* the largest IPv4 packet, bytes */
    uint32_t tx_ring;     /* descriptors */
    uint32_t rx_ring;
    uint32_t locked;      /* 1: acquire locks in the panic, too; 0: go round them */
    uint32_t promiscuous; /* 1: ordinary life listens to the whole segment */
    uint32_t reserved;

    /* Registers of the card, at an offset of its BAR. */
    uint8_t (*read8)(void *ctx, uint32_t offset);
    uint16_t (*read16)(void *ctx, uint32_t offset);
    uint32_t (*read32)(void *ctx, uint32_t offset);
    void (*write8)(void *ctx, uint32_t offset, uint8_t value);
    void (*write16)(void *ctx, uint32_t offset, uint16_t value);
    void (*write32)(void *ctx, uint32_t offset, uint32_t value);

    /* Memory for rings and buffers. alloc: ordinary memory, at boot, which will be dumped. reserve:
     * a piece of the panic arena, at boot, filled with 0xff. Aligned to a power of two. Both set
     * *physical; what can't be had ends the run with a message. */
    void *(*alloc)(void *ctx, uint64_t size, uint64_t align, uint64_t *physical);
    void *(*reserve)(void *ctx, uint64_t size, uint64_t align, uint64_t *physical);

    /* Busy-wait. Allowed in a panic. */
    void (*delay)(void *ctx, uint32_t microseconds);

    /* Mutexes, by name; made when first named. bypass: only in the panic. */
    void (*lock)(void *ctx, const char *name);
    void (*unlock)(void *ctx, const char *name);
    void (*bypass)(void *ctx, const char *name);

    /* Network buffers: all count of them, or none and 0. */
    int (*mbuf_take)(void *ctx, enum nb_zone zone, uint32_t count);
    void (*mbuf_give)(void *ctx, enum nb_zone zone, uint32_t count);

    /* Ordinary life: a step is about to be done (a register, a descriptor, a lock), and a panic may
     * strike here. Then this call does not return, and the next function of yours that is called is
     * event("start"), on the same stack. */
    void (*step)(void *ctx, const char *what);

    /* Sleep until the interrupt handler has run, at most so long; whether it ran. Ordinary life. */
    int (*wait_interrupt)(void *ctx, uint32_t microseconds);

    /* Hand a received frame up; it is copied. In interrupt() and poll(). */
    void (*receive)(void *ctx, const void *frame, uint32_t length);
};

/* What the library exports, under the name netdump_bench_driver. A function that returns int returns
 * 0 or an errno, unless it says otherwise. `softc` is what init() set. */
struct nb_driver {
    uint32_t version; /* NB_VERSION */
    uint32_t size;    /* sizeof(struct nb_driver) */
    const char *name; /* for messages */

    /* Boot, before the card can be reached: reserve all that the panic will need. (dn_init) */
    int (*init)(const struct nb_kernel *kernel, void **softc);
    /* The card's address. The first access to registers. */
    int (*mac)(void *softc, uint8_t address[6]);
    /* Whether there is a link: 1 or 0. */
    int (*link_up)(void *softc);

    /* The panic. event: 1 = start, take the card over; 0 = end, stop receiving. (dn_event) */
    void (*event)(void *softc, int start);
    /* Queue frames from the front; how many were taken. Fewer than all: the ring is full, and the
     * same frames come again. (dn_transmit) */
    uint32_t (*transmit)(void *softc, const struct nb_frame *frames, uint32_t count);
    /* Reclaim what was sent, and hand at most `budget` frames up. (dn_poll) */
    void (*poll)(void *softc, uint32_t budget);

    /* Ordinary life: all three, or none. */
    int (*attach)(void *softc); /* reset the card and start it, interrupts on */
    /* Queue frames (header is all of it, no payload); how many were taken. */
    uint32_t (*send)(void *softc, const struct nb_frame *frames, uint32_t count);
    void (*interrupt)(void *softc); /* the handler */
};

/* Define it, without `static`. */
extern const struct nb_driver netdump_bench_driver;

#endif
