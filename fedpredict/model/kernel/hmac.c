/* The first half of HMAC-SHA-256 (RFC 2104, FIPS 180-4) over many short texts under one key, several side by side.
 *
 * Plain C for ctypes: no Python, no numpy, no state. The caller (`model/kernel/hmacs.py`) has checked that the offsets
 * cut the data. Nothing here branches on, or looks a table up by, the key or a text's bytes: only lengths show in time.
 */
#include <stdint.h>
#include <string.h>

#define LANES 8  /* texts hashed side by side: two vectors of SSE2 or NEON, so that one step need not wait for another */
#define BLOCK 64 /* bytes */
#define WORDS 16 /* of a block */
#define STATE 8 /* words of a state */
#define ROUNDS 64
#define COUNTER 8 /* bytes of a text's length, behind the last block's other bytes */
#define HALF 4 /* words of a digest that are kept */

typedef uint32_t Lanes __attribute__((vector_size(4 * LANES)));

static const uint32_t START[STATE] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                      0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

static const uint32_t ROOTS[ROUNDS] = {
    0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
    0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
    0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
    0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
    0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
    0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
    0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
    0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};

const char *fp_source(void) { return FP_SOURCE; }

static inline uint32_t big_endian(uint32_t word) {
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return word;
#else
    return __builtin_bswap32(word);
#endif
}

#define TURN(x, n) (((x) >> (n)) | ((x) << (32 - (n))))

/* Take a block of each lane into its state. */
static void take(Lanes *state, Lanes *words) {
    Lanes a = state[0], b = state[1], c = state[2], d = state[3];
    Lanes e = state[4], f = state[5], g = state[6], h = state[7];
    for (int round = 0; round < ROUNDS; round++) {
        Lanes word;
        if (round < WORDS) {
            word = words[round];
        } else {
            Lanes far = words[(round - 15) % WORDS], near = words[(round - 2) % WORDS];
            word = words[round % WORDS] + (TURN(far, 7) ^ TURN(far, 18) ^ (far >> 3)) + words[(round - 7) % WORDS] +
                   (TURN(near, 17) ^ TURN(near, 19) ^ (near >> 10));
            words[round % WORDS] = word;
        }
        Lanes one = h + (TURN(e, 6) ^ TURN(e, 11) ^ TURN(e, 25)) + (g ^ (e & (f ^ g))) + ROOTS[round] + word;
        Lanes two = (TURN(a, 2) ^ TURN(a, 13) ^ TURN(a, 22)) + ((a & b) | (c & (a | b)));
        h = g;
        g = f;
        f = e;
        e = d + one;
        d = c;
        c = b;
        b = a;
        a = one + two;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

static inline int64_t n_blocks_of(int64_t size) { return (size + COUNTER) / BLOCK + 1; }

/* Write a text's block of that number, padded where the text has ended; a block of the key stands before the text. */
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
        uint64_t bits = ((uint64_t)size + BLOCK) * 8;
        for (int at = 0; at < COUNTER; at++) block[BLOCK - 1 - at] = (uint8_t)(bits >> (8 * at));
    }
}

static inline void spread(Lanes *state, const uint32_t *words) {
    for (int word = 0; word < STATE; word++) {
        Lanes same = {0};
        state[word] = same + words[word];
    }
}

/* Hash up to LANES texts, which end at offsets[1], offsets[2] ... */
static void hash(const uint32_t *states, const uint8_t *data, const int64_t *offsets, int n_texts, uint8_t *halves) {
    Lanes state[STATE];
    spread(state, states);
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
            for (int word = 0; word < WORDS; word++) words[word][lane] = big_endian(block[word]);
            open[lane] = 0xffffffffu;
        }
        Lanes next[STATE];
        memcpy(next, state, sizeof next);
        take(next, words);
        for (int word = 0; word < STATE; word++) state[word] = (next[word] & open) | (state[word] & ~open);
    }
    Lanes words[WORDS] = {{0}}, outer[STATE];
    memcpy(words, state, sizeof state);
    words[STATE] += 0x80000000u;
    words[WORDS - 1] += (uint32_t)((BLOCK + 4 * STATE) * 8);
    spread(outer, states + STATE);
    take(outer, words);
    for (int lane = 0; lane < n_texts; lane++) {
        for (int word = 0; word < HALF; word++) {
            uint32_t bytes = big_endian(outer[word][lane]);
            memcpy(halves + 4 * (HALF * lane + word), &bytes, 4);
        }
    }
}

/* Write the two states behind the blocks of a key of 64 bytes at most, (2, 8): the inner, then the outer. */
void fp_hmac_key(const uint8_t *key, int64_t size, uint32_t *states) {
    for (int side = 0; side < 2; side++) {
        uint32_t block[WORDS];
        uint8_t *bytes = (uint8_t *)block;
        memset(bytes, side ? 0x5c : 0x36, BLOCK);
        for (int64_t at = 0; at < size && at < BLOCK; at++) bytes[at] ^= key[at];
        Lanes state[STATE], words[WORDS] = {{0}};
        for (int word = 0; word < WORDS; word++) words[word] += big_endian(block[word]);
        spread(state, START);
        take(state, words);
        for (int word = 0; word < STATE; word++) states[STATE * side + word] = state[word][0];
    }
}

/* Write the first 16 bytes of the HMAC of each text, (n_texts, 16). */
void fp_hmac_halves(const uint32_t *states, const uint8_t *data, const int64_t *offsets, int64_t n_texts,
                    uint8_t *halves) {
    for (int64_t at = 0; at < n_texts; at += LANES) {
        int64_t left = n_texts - at;
        hash(states, data, offsets + at, left < LANES ? (int)left : LANES, halves + 4 * HALF * at);
    }
}
