/* The first four bytes of MD5 (RFC 1321) over many short texts, several side by side.
 *
 * Plain C for ctypes: no Python, no numpy, no state. The caller (`model/kernel/md5.py`) has checked that the offsets cut
 * the data. No secret and no signature hangs on it: it spreads sample ids over buckets.
 */
#include <stdint.h>
#include <string.h>

#define LANES 8  /* texts hashed side by side: two vectors of SSE2 or NEON, so that one step need not wait for another */
#define BLOCK 64 /* bytes */
#define WORDS 16 /* of a block */
#define COUNTER 8 /* bytes of a text's length, behind the last block's other bytes */

typedef uint32_t Lanes __attribute__((vector_size(4 * LANES)));

typedef struct {
    Lanes a, b, c, d;
} State;

const char *fp_source(void) { return FP_SOURCE; }

static inline uint32_t little_endian(uint32_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap32(word);
#else
    return word;
#endif
}

#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) ((y) ^ ((z) & ((x) ^ (y))))
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))
#define STEP(f, a, b, c, d, word, turn, sine) \
    a += f(b, c, d) + words[word] + sine; \
    a = b + ((a << turn) | (a >> (32 - turn)));

/* Take a block of each lane into its state. */
static void take(State *state, const Lanes *words) {
    Lanes a = state->a, b = state->b, c = state->c, d = state->d;
    STEP(F, a, b, c, d, 0, 7, 0xd76aa478u) STEP(F, d, a, b, c, 1, 12, 0xe8c7b756u)
    STEP(F, c, d, a, b, 2, 17, 0x242070dbu) STEP(F, b, c, d, a, 3, 22, 0xc1bdceeeu)
    STEP(F, a, b, c, d, 4, 7, 0xf57c0fafu) STEP(F, d, a, b, c, 5, 12, 0x4787c62au)
    STEP(F, c, d, a, b, 6, 17, 0xa8304613u) STEP(F, b, c, d, a, 7, 22, 0xfd469501u)
    STEP(F, a, b, c, d, 8, 7, 0x698098d8u) STEP(F, d, a, b, c, 9, 12, 0x8b44f7afu)
    STEP(F, c, d, a, b, 10, 17, 0xffff5bb1u) STEP(F, b, c, d, a, 11, 22, 0x895cd7beu)
    STEP(F, a, b, c, d, 12, 7, 0x6b901122u) STEP(F, d, a, b, c, 13, 12, 0xfd987193u)
    STEP(F, c, d, a, b, 14, 17, 0xa679438eu) STEP(F, b, c, d, a, 15, 22, 0x49b40821u)
    STEP(G, a, b, c, d, 1, 5, 0xf61e2562u) STEP(G, d, a, b, c, 6, 9, 0xc040b340u)
    STEP(G, c, d, a, b, 11, 14, 0x265e5a51u) STEP(G, b, c, d, a, 0, 20, 0xe9b6c7aau)
    STEP(G, a, b, c, d, 5, 5, 0xd62f105du) STEP(G, d, a, b, c, 10, 9, 0x02441453u)
    STEP(G, c, d, a, b, 15, 14, 0xd8a1e681u) STEP(G, b, c, d, a, 4, 20, 0xe7d3fbc8u)
    STEP(G, a, b, c, d, 9, 5, 0x21e1cde6u) STEP(G, d, a, b, c, 14, 9, 0xc33707d6u)
    STEP(G, c, d, a, b, 3, 14, 0xf4d50d87u) STEP(G, b, c, d, a, 8, 20, 0x455a14edu)
    STEP(G, a, b, c, d, 13, 5, 0xa9e3e905u) STEP(G, d, a, b, c, 2, 9, 0xfcefa3f8u)
    STEP(G, c, d, a, b, 7, 14, 0x676f02d9u) STEP(G, b, c, d, a, 12, 20, 0x8d2a4c8au)
    STEP(H, a, b, c, d, 5, 4, 0xfffa3942u) STEP(H, d, a, b, c, 8, 11, 0x8771f681u)
    STEP(H, c, d, a, b, 11, 16, 0x6d9d6122u) STEP(H, b, c, d, a, 14, 23, 0xfde5380cu)
    STEP(H, a, b, c, d, 1, 4, 0xa4beea44u) STEP(H, d, a, b, c, 4, 11, 0x4bdecfa9u)
    STEP(H, c, d, a, b, 7, 16, 0xf6bb4b60u) STEP(H, b, c, d, a, 10, 23, 0xbebfbc70u)
    STEP(H, a, b, c, d, 13, 4, 0x289b7ec6u) STEP(H, d, a, b, c, 0, 11, 0xeaa127fau)
    STEP(H, c, d, a, b, 3, 16, 0xd4ef3085u) STEP(H, b, c, d, a, 6, 23, 0x04881d05u)
    STEP(H, a, b, c, d, 9, 4, 0xd9d4d039u) STEP(H, d, a, b, c, 12, 11, 0xe6db99e5u)
    STEP(H, c, d, a, b, 15, 16, 0x1fa27cf8u) STEP(H, b, c, d, a, 2, 23, 0xc4ac5665u)
    STEP(I, a, b, c, d, 0, 6, 0xf4292244u) STEP(I, d, a, b, c, 7, 10, 0x432aff97u)
    STEP(I, c, d, a, b, 14, 15, 0xab9423a7u) STEP(I, b, c, d, a, 5, 21, 0xfc93a039u)
    STEP(I, a, b, c, d, 12, 6, 0x655b59c3u) STEP(I, d, a, b, c, 3, 10, 0x8f0ccc92u)
    STEP(I, c, d, a, b, 10, 15, 0xffeff47du) STEP(I, b, c, d, a, 1, 21, 0x85845dd1u)
    STEP(I, a, b, c, d, 8, 6, 0x6fa87e4fu) STEP(I, d, a, b, c, 15, 10, 0xfe2ce6e0u)
    STEP(I, c, d, a, b, 6, 15, 0xa3014314u) STEP(I, b, c, d, a, 13, 21, 0x4e0811a1u)
    STEP(I, a, b, c, d, 4, 6, 0xf7537e82u) STEP(I, d, a, b, c, 11, 10, 0xbd3af235u)
    STEP(I, c, d, a, b, 2, 15, 0x2ad7d2bbu) STEP(I, b, c, d, a, 9, 21, 0xeb86d391u)
    state->a += a;
    state->b += b;
    state->c += c;
    state->d += d;
}

static inline int64_t n_blocks_of(int64_t size) { return (size + COUNTER) / BLOCK + 1; }

/* Write a text's block of that number, padded where the text has ended. */
static inline void fill(uint8_t *block, const uint8_t *text, int64_t size, int64_t number) {
    int64_t start = number * BLOCK, left = size - start;
    if (left >= BLOCK) {
        memcpy(block, text + start, BLOCK);
        return;
    }
    memset(block, 0, BLOCK);
    if (left > 0) memcpy(block, text + start, (size_t)left);
    if (left >= 0) block[left] = 0x80;
    if (left < BLOCK - COUNTER) {
        uint64_t bits = (uint64_t)size * 8;
        for (int at = 0; at < COUNTER; at++) block[BLOCK - COUNTER + at] = (uint8_t)(bits >> (8 * at));
    }
}

/* Hash up to LANES texts, which end at offsets[1], offsets[2] ... */
static void hash(const uint8_t *data, const int64_t *offsets, int n_texts, uint8_t *first_bytes) {
    State state = {{0}, {0}, {0}, {0}};
    state.a += 0x67452301u;
    state.b += 0xefcdab89u;
    state.c += 0x98badcfeu;
    state.d += 0x10325476u;
    int64_t most = 0;
    for (int lane = 0; lane < n_texts; lane++) {
        int64_t n_blocks = n_blocks_of(offsets[lane + 1] - offsets[lane]);
        if (n_blocks > most) most = n_blocks;
    }
    for (int64_t number = 0; number < most; number++) {
        Lanes words[WORDS] = {{0}};
        Lanes open = {0}; /* all bits of the lanes whose text has such a block */
        for (int lane = 0; lane < n_texts; lane++) {
            int64_t size = offsets[lane + 1] - offsets[lane];
            if (number >= n_blocks_of(size)) continue;
            uint32_t block[WORDS];
            fill((uint8_t *)block, data + offsets[lane], size, number);
            for (int word = 0; word < WORDS; word++) words[word][lane] = little_endian(block[word]);
            open[lane] = 0xffffffffu;
        }
        State next = state;
        take(&next, words);
        state.a = (next.a & open) | (state.a & ~open);
        state.b = (next.b & open) | (state.b & ~open);
        state.c = (next.c & open) | (state.c & ~open);
        state.d = (next.d & open) | (state.d & ~open);
    }
    for (int lane = 0; lane < n_texts; lane++) {
        uint32_t word = little_endian(state.a[lane]);
        memcpy(first_bytes + 4 * lane, &word, 4);
    }
}

/* Write the first four bytes of the digest of each text, (n_texts, 4). */
void fp_md5_starts(const uint8_t *data, const int64_t *offsets, int64_t n_texts, uint8_t *first_bytes) {
    for (int64_t at = 0; at < n_texts; at += LANES) {
        int64_t left = n_texts - at;
        hash(data, offsets + at, left < LANES ? (int)left : LANES, first_bytes + 4 * at);
    }
}
