/* Lines of the audit log: sample ids as the first half of their HMAC-SHA-256 (RFC 2104, FIPS 180-4), and each line bound
 * to the one before by SHA-256.
 *
 * Plain C for ctypes: no Python, no numpy, no state. The caller (`model/kernel/lines.py`) has checked that the ends cut
 * the data, and made room. Nothing here branches on, or looks a table up by, the key or an id's bytes: only lengths show
 * in time.
 */
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#define BLOCK 64 /* bytes */
#define WORDS 16 /* of a block */
#define STATE 8 /* words of a state */
#define ROUNDS 64
#define COUNTER 8 /* bytes of a text's length, behind the last block's other bytes */
#define DIGEST 32 /* bytes */
#define HALF 16
#define HEAD 20 /* bytes of a call before its texts and ids */

typedef void Take(uint32_t *state, const uint8_t *blocks, int64_t n_blocks);

static const uint32_t START[STATE] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                      0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};

static const uint32_t ROOTS[ROUNDS] __attribute__((aligned(16))) = {
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

static void take_plainly(uint32_t *state, const uint8_t *blocks, int64_t n_blocks) {
    for (; n_blocks > 0; n_blocks--, blocks += BLOCK) {
        uint32_t words[WORDS];
        memcpy(words, blocks, BLOCK);
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int round = 0; round < ROUNDS; round++) {
            uint32_t word;
            if (round < WORDS) {
                word = words[round] = big_endian(words[round]);
            } else {
                uint32_t far = words[(round - 15) % WORDS], near = words[(round - 2) % WORDS];
                word = words[round % WORDS] + (TURN(far, 7) ^ TURN(far, 18) ^ (far >> 3)) + words[(round - 7) % WORDS] +
                       (TURN(near, 17) ^ TURN(near, 19) ^ (near >> 10));
                words[round % WORDS] = word;
            }
            uint32_t one = h + (TURN(e, 6) ^ TURN(e, 11) ^ TURN(e, 25)) + (g ^ (e & (f ^ g))) + ROOTS[round] + word;
            uint32_t two = (TURN(a, 2) ^ TURN(a, 13) ^ TURN(a, 22)) + ((a & b) | (c & (a | b)));
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
}

#if defined(__x86_64__)
/* The same with the processor's own instructions, which keep a state as (a, b, e, f) and (c, d, g, h). */
__attribute__((target("sha,sse4.1"))) static void take_by_processor(uint32_t *state, const uint8_t *blocks,
                                                                    int64_t n_blocks) {
    const __m128i order = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
    __m128i low = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
    __m128i high = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
    __m128i abef = _mm_alignr_epi8(low, high, 8), cdgh = _mm_blend_epi16(high, low, 0xf0);
    for (; n_blocks > 0; n_blocks--, blocks += BLOCK) {
        __m128i abef_before = abef, cdgh_before = cdgh, words[4];
        for (int at = 0; at < 4; at++)
            words[at] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(blocks + 16 * at)), order);
#pragma GCC unroll 16
        for (int four = 0; four < ROUNDS / 4; four++) { /* rounds */
            __m128i *word = &words[four % 4], last = words[(four + 3) % 4];
            if (four >= 4) {
                __m128i sum = _mm_sha256msg1_epu32(*word, words[(four + 1) % 4]);
                sum = _mm_add_epi32(sum, _mm_alignr_epi8(last, words[(four + 2) % 4], 4));
                *word = _mm_sha256msg2_epu32(sum, last);
            }
            __m128i both = _mm_add_epi32(*word, _mm_load_si128((const __m128i *)(ROOTS + 4 * four)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, both);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(both, 0x0e));
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    low = _mm_shuffle_epi32(abef, 0x1b);
    high = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(low, high, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(high, low, 8));
}

static int has_instructions(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)); /* SHA */
}
#endif

static Take *take_of(int plainly) {
#if defined(__x86_64__)
    if (!plainly && has_instructions()) return take_by_processor;
#endif
    (void)plainly;
    return take_plainly;
}

/* Take a text into a state that has `before` bytes already, whole blocks, and write the digest. */
static void finish(Take *take, uint32_t *state, const uint8_t *text, int64_t size, int64_t before, uint8_t *digest) {
    int64_t n_blocks = size / BLOCK, left = size % BLOCK;
    uint8_t last[2 * BLOCK] = {0};
    take(state, text, n_blocks);
    if (left) memcpy(last, text + n_blocks * BLOCK, (size_t)left);
    last[left] = 0x80;
    int64_t n_last = left < BLOCK - COUNTER ? 1 : 2;
    uint64_t bits = (uint64_t)(size + before) * 8;
    for (int at = 0; at < COUNTER; at++) last[n_last * BLOCK - 1 - at] = (uint8_t)(bits >> (8 * at));
    take(state, last, n_last);
    for (int word = 0; word < STATE; word++) {
        uint32_t bytes = big_endian(state[word]);
        memcpy(digest + 4 * word, &bytes, 4);
    }
}

static uint8_t *put(uint8_t *to, const void *text, int64_t size) {
    memcpy(to, text, (size_t)size);
    return to + size;
}

#define PUT(to, text) put(to, text, (int64_t)sizeof(text) - 1)

static uint8_t *put_hex(uint8_t *to, const uint8_t *bytes, int n_bytes) {
    for (int at = 0; at < n_bytes; at++) {
        for (int shift = 4; shift >= 0; shift -= 4) {
            int half = bytes[at] >> shift & 15;
            *to++ = (uint8_t)('0' + half + (half > 9) * ('a' - '0' - 10)); /* no table: an id's bytes are secret */
        }
    }
    return to;
}

/* Write a number that is not negative with so many digits at least. */
static uint8_t *put_number(uint8_t *to, int64_t number, int n_digits) {
    uint8_t digits[20];
    int n = 0;
    for (; number > 0 || n < n_digits; number /= 10) digits[n++] = (uint8_t)('0' + number % 10);
    while (n) *to++ = digits[--n];
    return to;
}

/* Write microseconds since 1970 (UTC) as 2026-11-27T08:00:05.000070Z; years 1970 to 9999. The civil date of a day is by
 * H. Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, eras of 400 of them. */
static uint8_t *put_time(uint8_t *to, int64_t micros) {
    int64_t seconds = micros / 1000000, days = seconds / 86400 + 719468;
    int64_t era = days / 146097, day_of_era = days % 146097;
    int64_t year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day = day_of_era - (365 * year + year / 4 - year / 100), month = (5 * day + 2) / 153;
    day -= (153 * month + 2) / 5 - 1;
    month += month < 10 ? 3 : -9;
    to = put_number(to, year + 400 * era + (month <= 2), 4);
    to = put_number(PUT(to, "-"), month, 2);
    to = put_number(PUT(to, "-"), day, 2);
    to = put_number(PUT(to, "T"), seconds / 3600 % 24, 2);
    to = put_number(PUT(to, ":"), seconds / 60 % 60, 2);
    to = put_number(PUT(to, ":"), seconds % 60, 2);
    to = put_number(PUT(to, "."), micros % 1000000, 6);
    return PUT(to, "Z");
}

/* Write the two states behind the blocks of a key of 64 bytes at most, (2, 8): the inner, then the outer. */
void fp_hmac_key(const uint8_t *key, int64_t size, uint32_t *states) {
    Take *take = take_of(0);
    for (int side = 0; side < 2; side++) {
        uint8_t block[BLOCK];
        memset(block, side ? 0x5c : 0x36, BLOCK);
        for (int64_t at = 0; at < size && at < BLOCK; at++) block[at] ^= key[at];
        memcpy(states + STATE * side, START, sizeof START);
        take(states + STATE * side, block, 1);
    }
}

/* Write a text's HMAC under a key's two states. */
static void take_hmac(Take *take, const uint32_t *states, const uint8_t *text, int64_t size, uint8_t *digest) {
    uint32_t state[STATE];
    memcpy(state, states, sizeof state);
    finish(take, state, text, size, BLOCK, digest);
    memcpy(state, states + STATE, sizeof state);
    finish(take, state, digest, DIGEST, BLOCK, digest);
}

static int64_t little_endian(const uint8_t *bytes, int n_bytes) {
    uint64_t number = 0;
    for (int at = 0; at < n_bytes; at++) number |= (uint64_t)bytes[at] << (8 * at);
    return (int64_t)number;
}

/* Write the ids of a line, or of many what they are bound by: the HMAC of their digest. Return NULL where they are not
 * what they are to be: their number, where each begins and the last ends, and their bytes. */
static uint8_t *put_ids(uint8_t *to, const uint8_t *ids, int64_t size, int64_t most, Take *take,
                        const uint32_t *states) {
    uint8_t digest[DIGEST];
    if (size < 12) return NULL;
    int64_t n_ids = little_endian(ids, 8);
    if (n_ids < 0 || n_ids > (size - 12) / 4) return NULL;
    const uint8_t *offsets = ids + 8, *data = offsets + 4 * (n_ids + 1);
    int64_t start = little_endian(offsets, 4);
    if (start != 0 || little_endian(offsets + 4 * n_ids, 4) != size - (data - ids)) return NULL;
    if (n_ids > most) {
        uint32_t state[STATE];
        memcpy(state, START, sizeof state);
        finish(take, state, ids, size, 0, digest);
        take_hmac(take, states, digest, DIGEST, digest);
        return PUT(put_hex(PUT(to, ",\"root\":\""), digest, DIGEST), "\"");
    }
    to = PUT(to, ",\"ids\":[");
    for (int64_t id = 0; id < n_ids; id++) {
        int64_t end = little_endian(offsets + 4 * (id + 1), 4);
        if (end < start || end > size - (data - ids)) return NULL;
        take_hmac(take, states, data + start, end - start, digest);
        to = id ? PUT(to, ",\"") : PUT(to, "\"");
        to = PUT(put_hex(to, digest, HALF), "\"");
        start = end;
    }
    return PUT(to, "]");
}

/* Write lines of calls without their numbers and hashes, one behind the other, and where each ends; return how many there
 * are, or -1 where the calls are not what they are to be.
 *
 * calls: one behind the other, as `pack_call` of lines.py makes them. most_ids: that a line has one by one.
 */
int64_t fp_lines(const uint32_t *states, int64_t n_calls, const uint8_t *calls, int64_t size, int64_t most_ids,
                 int plainly, uint8_t *lines, int64_t *line_ends) {
    Take *take = take_of(plainly);
    uint8_t *to = lines;
    for (int64_t call = 0; call < n_calls; call++) {
        if (size < HEAD) return -1;
        int64_t nanos = little_endian(calls, 8), text_size = little_endian(calls + 8, 4);
        int64_t request_size = little_endian(calls + 12, 4), ids_size = little_endian(calls + 16, 4);
        calls += HEAD;
        size -= HEAD;
        if (text_size + request_size + ids_size > size) return -1;
        to = put_time(PUT(to, "{\"kind\":\"call\",\"t\":\""), nanos / 1000);
        to = put(PUT(to, "\","), calls, text_size);
        if (request_size > 2) to = put(PUT(to, ",\"request\":"), calls + text_size, request_size);
        if (ids_size) to = put_ids(to, calls + text_size + request_size, ids_size, most_ids, take, states);
        if (!to) return -1;
        to = PUT(to, "}");
        line_ends[call] = to - lines;
        calls += text_size + request_size + ids_size;
        size -= text_size + request_size + ids_size;
    }
    return size ? -1 : n_calls;
}

/* Number lines, of at least `{` and `}` each, and bind each to the one before; return how many bytes were written.
 *
 * number: of the last line before. hash: the hex of that line's hash; of the last of these afterwards.
 */
int64_t fp_seal(int64_t n_lines, const uint8_t *lines, const int64_t *line_ends, int64_t number, uint8_t *hash,
                int plainly, uint8_t *sealed) {
    Take *take = take_of(plainly);
    uint8_t *to = sealed;
    for (int64_t line = 0, start = 0; line < n_lines; start = line_ends[line], line++) {
        /* what is hashed stands behind the hash before: for as long as that takes, that hash does */
        uint8_t *text = put(to, hash, 2 * DIGEST), *end;
        end = PUT(put_number(PUT(text, "{\"n\":"), ++number, 1), ",");
        end = put(end, lines + start + 1, line_ends[line] - start - 2);
        uint32_t state[STATE];
        uint8_t digest[DIGEST];
        memcpy(state, START, sizeof state);
        finish(take, state, to, end - to, 0, digest);
        put_hex(hash, digest, DIGEST);
        memmove(to, text, (size_t)(end - text));
        to = PUT(put(PUT(to + (end - text), ",\"h\":\""), hash, 2 * DIGEST), "\"}\n");
    }
    return to - sealed;
}
