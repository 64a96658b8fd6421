/* Walks of decision trees: sums of leaf values, leaves, and leaf masks.
 *
 * Plain C for ctypes: no Python, no numpy, no state. Arrays are row-major. The caller (`model/trees.py`) has checked what
 * is read here: children lie in their tree, columns are below n_columns, sets exist.
 *
 * A node is 16 bytes. A sample goes right by adding 1 to `child`, because siblings stand side by side; a leaf is its own
 * child, so that rows walked together may wait there for each other. `x > threshold` is the only comparison: whether the
 * trees compare by <, or after rounding to float32, has gone into the threshold.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8            /* rows walked side by side: while one waits for memory, the others go on */
#define MAX_BLOCK 512      /* rows that see all trees before the next ones */
#define BLOCK_NUMBERS 32768 /* features of a block: 256 kB */
#define SMALL_STACK 64
#define LEAVES_PER_WORD 52 /* so that a word is a whole number that float64 holds exactly */

#define COLUMN 0x03ffffffu
#define END (1u << 26)     /* a leaf; or, with FOREIGN, a node below which no split is our own */
#define FOREIGN (1u << 27) /* another party's split */
#define UNKNOWN_RIGHT (1u << 28)
#define CATEGORICAL (1u << 29)
#define ZERO_IS_MISSING (1u << 30)
#define MISSING_RIGHT_BIT 31

typedef struct {
    double threshold; /* two int32 (left set, known set) where CATEGORICAL; the NaN with the leaf's place where END */
    int32_t child;    /* the left one; the number of leaves where END and FOREIGN */
    uint32_t what;    /* column and flags */
} Node;

typedef struct {
    const Node *nodes;
    const int64_t *start;        /* (n_trees + 1,) */
    const int32_t *original;     /* (n_nodes,): the caller's number of a node */
    const uint8_t *plain;        /* (n_trees,): whether a tree only compares numbers */
    const uint64_t *set_words;   /* a set's low codes as bits ... */
    const int64_t *set_start;    /* (n_sets + 1,) */
    const int32_t *set_codes;    /* ... and its other codes, sorted */
    const int64_t *codes_start;  /* (n_sets + 1,) */
    const int64_t *word_start;   /* (n_trees + 1,): the first mask word of each tree */
    int64_t n_trees;
    int64_t stack_size;          /* children that wait at most, while masks are made */
    double zero;                 /* the largest number that counts as zero */
    int64_t float32;
} Trees;

const char *fp_source(void) { return FP_SOURCE; }

static int contains(const Trees *trees, int32_t set, int32_t code) {
    int64_t first = trees->set_start[set], word = code >> 6;
    if (word < trees->set_start[set + 1] - first) return (trees->set_words[first + word] >> (code & 63)) & 1;
    int64_t low = trees->codes_start[set], high = trees->codes_start[set + 1];
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (trees->set_codes[middle] < code) low = middle + 1;
        else high = middle;
    }
    return low < trees->codes_start[set + 1] && trees->set_codes[low] == code;
}

static int category_goes_right(const Trees *trees, const Node *node, double x) {
    int32_t sets[2];
    memcpy(sets, &node->threshold, sizeof sets);
    if (trees->float32) x = (float)x;
    if (!(x > -1.0 && x < 2147483648.0)) return (node->what & UNKNOWN_RIGHT) != 0;
    int32_t code = (int32_t)x;
    if (sets[1] >= 0 && !contains(trees, sets[1], code)) return (node->what & UNKNOWN_RIGHT) != 0;
    return !contains(trees, sets[0], code);
}

static inline int32_t plain_step(const Node *node, const double *row) {
    double x = row[node->what & COLUMN];
    return node->child + (int32_t)((uint32_t)(x > node->threshold) | ((uint32_t)(x != x) & (node->what >> MISSING_RIGHT_BIT)));
}

static inline int32_t step(const Trees *trees, const Node *node, const double *row) {
    if (!(node->what & (CATEGORICAL | ZERO_IS_MISSING))) return plain_step(node, row);
    double x = row[node->what & COLUMN];
    if (x != x || ((node->what & ZERO_IS_MISSING) && fabs(x) <= trees->zero))
        return node->child + (int32_t)(node->what >> MISSING_RIGHT_BIT);
    if (node->what & CATEGORICAL) return node->child + category_goes_right(trees, node, x);
    return node->child + (x > node->threshold);
}

/* Write the leaf of each of `n` rows in one tree, by the caller's numbers. */
static void walk(const Trees *trees, int64_t tree, const double *rows, int64_t n, int64_t n_columns, int32_t *leaves) {
    const Node *nodes = trees->nodes;
    int32_t root = (int32_t)trees->start[tree];
    int64_t row = 0;
    if (trees->plain[tree]) {
        for (; row + LANES <= n; row += LANES) {
            int32_t at[LANES];
            const double *x = rows + row * n_columns;
            for (int lane = 0; lane < LANES; lane++) at[lane] = root;
            for (;;) {
                uint32_t ended = END;
                for (int lane = 0; lane < LANES; lane++) ended &= nodes[at[lane]].what;
                if (ended) break;
#pragma GCC unroll 8
                for (int lane = 0; lane < LANES; lane++) at[lane] = plain_step(nodes + at[lane], x + lane * n_columns);
            }
            for (int lane = 0; lane < LANES; lane++) leaves[row + lane] = trees->original[at[lane]];
        }
    }
    for (; row < n; row++) {
        int32_t at = root;
        while (!(nodes[at].what & END)) at = step(trees, nodes + at, rows + row * n_columns);
        leaves[row] = trees->original[at];
    }
}

static int64_t block_of(int64_t n_columns) {
    int64_t block = n_columns ? BLOCK_NUMBERS / n_columns : MAX_BLOCK;
    return block < LANES ? LANES : block > MAX_BLOCK ? MAX_BLOCK : block;
}

void fp_trees_leaves(const Trees *trees, const double *features, int64_t n_rows, int64_t n_columns, int64_t *leaves) {
    int32_t own[MAX_BLOCK];
    int64_t block = block_of(n_columns);
    for (int64_t first = 0; first < n_rows; first += block) {
        int64_t n = n_rows - first < block ? n_rows - first : block;
        for (int64_t tree = 0; tree < trees->n_trees; tree++) {
            walk(trees, tree, features + first * n_columns, n, n_columns, own);
            for (int64_t row = 0; row < n; row++) leaves[(first + row) * trees->n_trees + tree] = own[row];
        }
    }
}

static inline double signed_or_not(double value, int64_t absolute) { return absolute ? fabs(value) : value; }

/* Write the sums of leaf values (or of what they are without sign), and `base` where it is given.
 * `output`: the score that each tree adds to; NULL where each leaf has `n_scores` values. */
void fp_trees_sum(const Trees *trees, const double *features, int64_t n_rows, int64_t n_columns, const double *values,
                  const int32_t *output, const double *base, int64_t n_scores, int64_t absolute, double *scores) {
    int32_t leaves[MAX_BLOCK];
    int64_t block = block_of(n_columns);
    memset(scores, 0, (size_t)(n_rows * n_scores) * sizeof *scores);
    for (int64_t first = 0; first < n_rows; first += block) {
        int64_t n = n_rows - first < block ? n_rows - first : block;
        double *sums = scores + first * n_scores;
        for (int64_t tree = 0; tree < trees->n_trees; tree++) {
            walk(trees, tree, features + first * n_columns, n, n_columns, leaves);
            if (output) {
                for (int64_t row = 0; row < n; row++)
                    sums[row * n_scores + output[tree]] += signed_or_not(values[leaves[row]], absolute);
                continue;
            }
            for (int64_t row = 0; row < n; row++)
                for (int64_t score = 0; score < n_scores; score++)
                    sums[row * n_scores + score] += signed_or_not(values[leaves[row] * n_scores + score], absolute);
        }
        for (int64_t at = 0; base && at < n * n_scores; at++) sums[at] += signed_or_not(base[at % n_scores], absolute);
    }
}

/* For each node, in the caller's order: the number of its first leaf among those of its tree, how many leaves it has,
 * whether a split at or below it is our own, and how many children may wait while it is visited. All arrays start as 0. */
void fp_trees_number(int64_t n_nodes, const int32_t *feature, const int32_t *left, const int32_t *right,
                     int32_t *first, int32_t *count, uint8_t *own, int32_t *waiting) {
    for (int64_t node = n_nodes - 1; node >= 0; node--) {
        count[node] = left[node] < 0 ? 1 : count[left[node]] + count[right[node]];
        own[node] = left[node] >= 0 && (feature[node] >= 0 || own[left[node]] || own[right[node]]);
    }
    for (int64_t node = 0; node < n_nodes; node++) {
        if (left[node] < 0) continue;
        first[left[node]] = first[node];
        first[right[node]] = first[node] + count[left[node]];
        waiting[left[node]] = waiting[node] + (feature[node] < 0);
        waiting[right[node]] = waiting[node];
    }
}

/* `place`: the word of the first leaf times 64, and its bit. */
static inline void allow(uint64_t *words, uint64_t place, int64_t n_leaves) {
    uint64_t *word = words + (place >> 6);
    int64_t bit = place & 63;
    for (; bit + n_leaves > LEAVES_PER_WORD; word++, bit = 0) {
        *word |= ((1ull << (LEAVES_PER_WORD - bit)) - 1) << bit;
        n_leaves -= LEAVES_PER_WORD - bit;
    }
    *word |= ((1ull << n_leaves) - 1) << bit;
}

static void allow_leaves(const Trees *trees, int64_t tree, const double *row, uint64_t *words, int32_t *stack) {
    const Node *node = trees->nodes + trees->start[tree];
    int64_t n_waiting = 0;
    for (;;) {
        uint32_t what = node->what;
        if (what & END) {
            uint64_t place;
            memcpy(&place, &node->threshold, sizeof place);
            allow(words, place & 0x0007ffffffffffffull, what & FOREIGN ? node->child : 1);
            if (!n_waiting) return;
            node = trees->nodes + stack[--n_waiting];
        } else if (what & FOREIGN) {
            stack[n_waiting++] = node->child + 1;
            node = trees->nodes + node->child;
        } else {
            node = trees->nodes + step(trees, node, row);
        }
    }
}

/* Write the masks, float64 words, into `words` (n_rows, n_words). Returns -1 without memory, else 0. */
int fp_trees_masks(const Trees *trees, const double *features, int64_t n_rows, int64_t n_columns, uint64_t *words) {
    int32_t small[SMALL_STACK], *stack = small;
    int64_t n_words = trees->word_start[trees->n_trees];
    if (trees->stack_size > SMALL_STACK && !(stack = malloc((size_t)trees->stack_size * sizeof *stack))) return -1;
    for (int64_t row = 0; row < n_rows; row++, words += n_words) {
        memset(words, 0, (size_t)n_words * sizeof *words);
        for (int64_t tree = 0; tree < trees->n_trees; tree++)
            allow_leaves(trees, tree, features + row * n_columns, words + trees->word_start[tree], stack);
        for (int64_t at = 0; at < n_words; at++) {
            double word = (double)(int64_t)words[at];
            memcpy(words + at, &word, sizeof word);
        }
    }
    if (stack != small) free(stack);
    return 0;
}

#define NONE (-1)
#define SEVERAL (-2)
#define NO_MASK (-3)

/* Write the one leaf of each tree that every party allows, or NONE, SEVERAL, NO_MASK (a word that is no whole number
 * from 0 to 2^52 - 1). `masks`: n_parties addresses of (n_rows, n_words). `n_leaves`: (n_trees,). */
void fp_surviving_leaves(const double *const *masks, int64_t n_parties, int64_t n_rows, int64_t n_trees,
                         const int32_t *n_leaves, int32_t *leaves) {
    int64_t at = 0;
    for (int64_t row = 0; row < n_rows; row++) {
        for (int64_t tree = 0; tree < n_trees; tree++) {
            int32_t found = NONE;
            for (int32_t first = 0; first < n_leaves[tree]; first += LEAVES_PER_WORD, at++) {
                int32_t n = n_leaves[tree] - first < LEAVES_PER_WORD ? n_leaves[tree] - first : LEAVES_PER_WORD;
                uint64_t word = (1ull << n) - 1;
                for (int64_t party = 0; party < n_parties; party++) {
                    double given = masks[party][at];
                    if (!(given >= 0.0 && given < 4503599627370496.0)) { found = NO_MASK; continue; }
                    int64_t whole = (int64_t)given;
                    if ((double)whole != given) found = NO_MASK;
                    word &= (uint64_t)whole;
                }
                if (!word || found == NO_MASK) continue;
                found = found == NONE && !(word & (word - 1)) ? first + __builtin_ctzll(word) : SEVERAL;
            }
            *leaves++ = found;
        }
    }
}
