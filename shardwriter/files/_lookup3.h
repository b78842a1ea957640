/* Jenkins' lookup3 hash, as HDF5 guards its metadata with it.

   Invariant: equal to `hashlittle(data, length, 0)` of https://burtleburtle.net/bob/c/lookup3.c,
   which its author put into the public domain, on machines of either byte order. */

#include <stddef.h>
#include <stdint.h>

enum { LOOKUP3_BLOCK = 12 };

static uint32_t rotated(uint32_t word, int bits) { return word << bits | word >> (32 - bits); }

static uint32_t lookup3_word(const unsigned char *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void lookup3_add(uint32_t state[3], const unsigned char *block)
{
    for (int i = 0; i < 3; i++)
        state[i] += lookup3_word(block + 4 * i);
}

/* One line of lookup3's mix(). */
#define MIX(target, source, other, bits)                                                          \
    (target -= source, target ^= rotated(source, bits), source += other)

/* One line of its final(). */
#define FINAL(target, source, bits) (target ^= source, target -= rotated(source, bits))

static uint32_t lookup3_of(const unsigned char *data, ptrdiff_t length)
{
    uint32_t start = 0xdeadbeef + (uint32_t)length;
    uint32_t state[3] = {start, start, start};
    if (length == 0)
        return start;
    for (; length > LOOKUP3_BLOCK; data += LOOKUP3_BLOCK, length -= LOOKUP3_BLOCK) {
        lookup3_add(state, data);
        uint32_t a = state[0], b = state[1], c = state[2];
        MIX(a, c, b, 4);
        MIX(b, a, c, 6);
        MIX(c, b, a, 8);
        MIX(a, c, b, 16);
        MIX(b, a, c, 19);
        MIX(c, b, a, 4);
        state[0] = a, state[1] = b, state[2] = c;
    }
    unsigned char last[LOOKUP3_BLOCK] = {0};
    for (ptrdiff_t i = 0; i < length; i++)
        last[i] = data[i];
    lookup3_add(state, last);
    uint32_t a = state[0], b = state[1], c = state[2];
    FINAL(c, b, 14);
    FINAL(a, c, 11);
    FINAL(b, a, 25);
    FINAL(c, b, 16);
    FINAL(a, c, 4);
    FINAL(b, a, 14);
    FINAL(c, b, 24);
    return c;
}
