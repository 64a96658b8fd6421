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
#define GROUP 32            /* trees whose masks are made side by side */
#define FEW_SPLITS 4096     /* groups of more splits, or mask words, need memory from the heap while masks are made */
#define FEW_WORDS 512
#define PAD 4
#define MASK_BLOCK 16       /* rows whose masks are made tree by tree */
#define LEAVES_PER_WORD 52 /* so that a word is a whole number that float64 holds exactly */
#define ALL_LEAVES ((1ull << LEAVES_PER_WORD) - 1)

#define COLUMN 0x03ffffffu
#define LEAF (1u << 26)
#define UNKNOWN_RIGHT (1u << 27)
#define CATEGORICAL (1u << 28)
#define ZERO_IS_MISSING (1u << 29)
#define MISSING_RIGHT_BIT 30

#define CUT 0
#define WHOLE 2
#define BYTE 3

typedef struct {
    double threshold; /* two int32 (left set, known set) where CATEGORICAL; infinite at a leaf */
    int32_t child;    /* the left one */
    uint32_t what;    /* column and flags */
} Node;

typedef struct {
    const uint64_t *set_words;   /* a set's low codes as bits ... */
    const int64_t *set_start;    /* (n_sets + 1,) */
    const int32_t *set_codes;    /* ... and its other codes, sorted */
    const int64_t *codes_start;  /* (n_sets + 1,) */
    double zero;                 /* the largest number that counts as zero */
    int64_t float32;             /* whether numbers are rounded first */
    int64_t codes;               /* which numbers are a category's code: CUT, CUT_FROM_ZERO, WHOLE or BYTE */
} Rules;

typedef struct {
    Rules rules;
    const Node *nodes;
    const int64_t *start;        /* (n_trees + 1,) */
    const int32_t *original;     /* (n_nodes,): the caller's number of a node */
    const uint8_t *plain;        /* (n_trees,): whether a tree only compares numbers */
    int64_t n_trees;
} Trees;

const char *fp_source(void) { return FP_SOURCE; }

static int contains(const Rules *rules, int32_t set, int32_t code) {
    int64_t first = rules->set_start[set], word = code >> 6;
    if (word < rules->set_start[set + 1] - first) return (rules->set_words[first + word] >> (code & 63)) & 1;
    int64_t low = rules->codes_start[set], high = rules->codes_start[set + 1];
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (rules->set_codes[middle] < code) low = middle + 1;
        else high = middle;
    }
    return low < rules->codes_start[set + 1] && rules->set_codes[low] == code;
}

/* The code of a number, or -1. */
static int32_t code_of(const Rules *rules, double x) {
    if (rules->codes == WHOLE) return x >= 0.0 && x < 2147483648.0 && x == (double)(int32_t)x ? (int32_t)x : -1;
    if (rules->float32) x = (float)x;
    if (rules->codes == BYTE) return !(x >= 0.0) ? -1 : x < 2147483648.0 ? (int32_t)x & 255 : 0;
    return x < 2147483648.0 && (rules->codes == CUT ? x > -1.0 : x >= 0.0) ? (int32_t)x : -1;
}

static int category_goes_right(const Rules *rules, const Node *node, double x) {
    int32_t sets[2], code = code_of(rules, x);
    memcpy(sets, &node->threshold, sizeof sets);
    if (code < 0 || (sets[1] >= 0 && !contains(rules, sets[1], code))) return (node->what & UNKNOWN_RIGHT) != 0;
    return !contains(rules, sets[0], code);
}

static inline int32_t plain_step(const Node *node, const double *row) {
    double x = row[node->what & COLUMN];
    return node->child + (int32_t)((uint32_t)(x > node->threshold) | ((uint32_t)(x != x) & (node->what >> MISSING_RIGHT_BIT)));
}

static inline int32_t step(const Rules *rules, const Node *node, const double *row) {
    if (!(node->what & (CATEGORICAL | ZERO_IS_MISSING))) return plain_step(node, row);
    double x = row[node->what & COLUMN];
    if (x != x || ((node->what & ZERO_IS_MISSING) && fabs(x) <= rules->zero))
        return node->child + (int32_t)(node->what >> MISSING_RIGHT_BIT);
    if (node->what & CATEGORICAL) return node->child + category_goes_right(rules, node, x);
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
                uint32_t ended = LEAF;
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
        while (!(nodes[at].what & LEAF)) at = step(&trees->rules, nodes + at, rows + row * n_columns);
        leaves[row] = trees->original[at];
    }
}

static int64_t block_of(int64_t n_columns) {
    int64_t block = n_columns ? BLOCK_NUMBERS / n_columns : MAX_BLOCK;
    return block < LANES ? LANES : block > MAX_BLOCK ? MAX_BLOCK : block;
}

void fp_leaves(const Trees *trees, const double *features, int64_t n_rows, int64_t n_columns, int64_t *leaves) {
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
void fp_sums(const Trees *trees, const double *features, int64_t n_rows, int64_t n_columns, const double *values,
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

/* Leaf masks. A party's own splits form a tree of their own: below each side of a split come the splits that are reached
 * through other parties' alone. All leaves are allowed at first; a split that is reached forbids those of its other side. */
typedef struct {
    uint32_t place;    /* the first leaf of the other side: its word in its group of trees times 64, and its bit */
    int32_t n_leaves;  /* of the other side */
    int32_t below;     /* the first split below this side; they stand side by side */
    int32_t n_below;
} Side;

typedef struct {
    Node node; /* `child` is 0, so that a step from it says which side */
    Side sides[2];
} Split;

typedef struct {
    Rules rules;
    const Split *splits;
    const int64_t *split_start; /* (n_trees + 1,): the first split of each tree */
    const int32_t *n_roots;     /* (n_trees,): how many of a tree's first splits are reached by every sample */
    const int64_t *word_start;  /* (n_trees + 1,): the first word of each tree */
    const uint64_t *all;        /* (n_words,): a mask with all leaves */
    int64_t n_trees;
    int64_t most_splits;        /* of one group of trees */
    int64_t most_words;
} Masks;

/* For each node, in the caller's order: the number of its first leaf among those of its tree, and how many leaves it has.
 * Both arrays start as 0. */
void fp_number_leaves(int64_t n_nodes, const int32_t *left, const int32_t *right, int32_t *first, int32_t *count) {
    for (int64_t node = n_nodes - 1; node >= 0; node--)
        count[node] = left[node] < 0 ? 1 : count[left[node]] + count[right[node]];
    for (int64_t node = 0; node < n_nodes; node++) {
        if (left[node] < 0) continue;
        first[left[node]] = first[node];
        first[right[node]] = first[node] + count[left[node]];
    }
}

/* Append the own splits that are reached from `node` through others alone; return the new end of `splits`. */
static int64_t append_reached(int32_t node, const int32_t *feature, const int32_t *left, const int32_t *right,
                              int32_t *stack, int32_t *splits, int64_t end) {
    int64_t n_waiting = 0;
    stack[n_waiting++] = node;
    while (n_waiting) {
        node = stack[--n_waiting];
        if (left[node] < 0) continue;
        if (feature[node] >= 0) {
            splits[end++] = node;
            continue;
        }
        stack[n_waiting++] = right[node];
        stack[n_waiting++] = left[node];
    }
    return end;
}

/* Order the own splits so that those below one side stand side by side.
 * `splits`: (n own splits,): their nodes. `below`: (n own splits, 3): where those below its left side begin, those below
 * its right side, and where they end. `split_start`: (n_trees + 1,). `n_roots`: (n_trees,). `stack`: n_nodes numbers. */
void fp_order_splits(int64_t n_trees, const int64_t *start, const int32_t *feature, const int32_t *left,
                     const int32_t *right, int32_t *stack, int32_t *splits, int32_t *below, int64_t *split_start,
                     int32_t *n_roots) {
    int64_t end = 0;
    for (int64_t tree = 0; tree < n_trees; tree++) {
        int64_t at = split_start[tree] = end;
        end = append_reached((int32_t)start[tree], feature, left, right, stack, splits, end);
        n_roots[tree] = (int32_t)(end - at);
        for (; at < end; at++) {
            below[3 * at] = (int32_t)end;
            end = append_reached(left[splits[at]], feature, left, right, stack, splits, end);
            below[3 * at + 1] = (int32_t)end;
            end = append_reached(right[splits[at]], feature, left, right, stack, splits, end);
            below[3 * at + 2] = (int32_t)end;
        }
    }
    split_start[n_trees] = end;
}

/* `words` has one more than the trees need. */
static inline void forbid(uint64_t *words, uint32_t place, int32_t n_leaves) {
    uint64_t *word = words + (place >> 6);
    uint32_t bit = place & 63;
    for (; n_leaves > LEAVES_PER_WORD; word++, bit = 0) {
        *word &= (1ull << bit) - 1;
        n_leaves -= LEAVES_PER_WORD - (int32_t)bit;
    }
    uint64_t leaves = (1ull << n_leaves) - 1;
    word[0] &= ~(leaves << bit); /* what is above bit 51 does not count */
    word[1] &= ~(leaves >> (LEAVES_PER_WORD - bit));
}

/* Trees are looked at in groups, because splits of one tree wait for each other, and those of others need not. */
static void mask_of_group(const Masks *masks, int64_t first, int64_t end, const double *row, uint64_t *words,
                          int32_t *reached) {
    int32_t n_reached = 0;
    for (int64_t tree = first; tree < end; tree++)
        for (int32_t root = 0; root < masks->n_roots[tree]; root++)
            reached[n_reached++] = (int32_t)masks->split_start[tree] + root;
    for (int32_t at = 0; at < n_reached; at++) {
        const Split *split = masks->splits + reached[at];
        const Side *side = split->sides + step(&masks->rules, &split->node, row);
        /* most often there are 0, 1 or 2 below: to write always PAD of them spares a branch that nobody can predict */
        for (int32_t next = 0; next < PAD; next++) reached[n_reached + next] = side->below + next;
        for (int32_t next = PAD; next < side->n_below; next++) reached[n_reached + next] = side->below + next;
        __builtin_prefetch(masks->splits + side->below);
        __builtin_prefetch(masks->splits + side->below + 1);
        n_reached += side->n_below;
        forbid(words, side->place, side->n_leaves);
    }
}

/* Write the masks (n_rows, n_words). Returns -1 without memory, else 0. */
int fp_masks(const Masks *masks, const double *features, int64_t n_rows, int64_t n_columns, double *out) {
    uint64_t few_words[FEW_WORDS], *words = few_words;
    int32_t few_splits[FEW_SPLITS], *reached = few_splits;
    const int64_t *start = masks->word_start;
    int64_t n_words = start[masks->n_trees];
    if (masks->most_words + 1 > FEW_WORDS) words = malloc((size_t)(masks->most_words + 1) * sizeof *words);
    if (masks->most_splits + PAD > FEW_SPLITS) reached = malloc((size_t)(masks->most_splits + PAD) * sizeof *reached);
    int failed = !words || !reached;
    for (int64_t first = 0; first < n_rows && !failed; first += MASK_BLOCK) {
        int64_t last = n_rows - first < MASK_BLOCK ? n_rows : first + MASK_BLOCK;
        for (int64_t tree = 0; tree < masks->n_trees; tree += GROUP) {
            int64_t end = masks->n_trees - tree < GROUP ? masks->n_trees : tree + GROUP;
            int64_t n = start[end] - start[tree];
            for (int64_t row = first; row < last; row++) {
                double *own = out + row * n_words + start[tree];
                memcpy(words, masks->all + start[tree], (size_t)n * sizeof *words);
                mask_of_group(masks, tree, end, features + row * n_columns, words, reached);
                for (int64_t word = 0; word < n; word++) own[word] = (double)(int64_t)words[word];
            }
        }
    }
    if (words != few_words) free(words);
    if (reached != few_splits) free(reached);
    return failed ? -1 : 0;
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
            uint64_t seen = 0, too_many = 0;
            int bad = 0;
            for (int32_t first = 0; first < n_leaves[tree]; first += LEAVES_PER_WORD, at++) {
                int32_t n = n_leaves[tree] - first < LEAVES_PER_WORD ? n_leaves[tree] - first : LEAVES_PER_WORD;
                uint64_t word = (1ull << n) - 1;
                for (int64_t party = 0; party < n_parties; party++) {
                    double given = masks[party][at];
                    int in_range = (given >= 0.0) & (given < 4503599627370496.0);
                    int64_t whole = (int64_t)(in_range ? given : 0.0);
                    bad |= (double)whole != given;
                    word &= (uint64_t)whole;
                }
                too_many |= (word & (word - 1)) | (word ? seen : 0);
                seen |= word;
                found = word ? first + __builtin_ctzll(word) : found;
            }
            if (too_many) found = SEVERAL;
            if (bad) found = NO_MASK;
            *leaves++ = found;
        }
    }
}
