/* A driver whose functions do nothing but what a test says by -D. */
#include "netdump_bench.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const struct nb_kernel *k;

static int init(const struct nb_kernel *kernel, void **softc)
{
    k = kernel;
    *softc = NULL;
    return INIT;
}

static int mac(void *softc, uint8_t address[6])
{
    (void)softc;
    address[0] = address[5] = 2;
    return 0;
}

static int up(void *softc)
{
    (void)softc;
    return 1;
}

static void event(void *softc, int start)
{
    (void)softc;
    (void)start;
}

static uint32_t transmit(void *softc, const struct nb_frame *frames, uint32_t count)
{
    (void)softc;
    (void)frames;
    (void)count;
    TRANSMIT;
}

static void poll_(void *softc, uint32_t budget)
{
    (void)softc;
    (void)budget;
    POLL;
}

const struct nb_driver netdump_bench_driver = {
    .version = VERSION, .size = SIZE, .name = "hollow",
    .init = init, .mac = mac, .link_up = up,
    .event = event, .transmit = transmit, .poll = WHICH_POLL, .send = WHICH_SEND,
};
