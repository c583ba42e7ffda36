/* What a decoder's block does besides matrix products, in fp32 on one CPU thread.

   Called by library.py, which sees to it that every pointer is to a contiguous array; whoever calls
   that, that widths and head sizes are multiples of LANES and runs lie within T tokens.
   Deterministic: sums are taken in one order, whatever the other arguments are. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16
typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef float Floats8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float Floats4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(64), aligned(4), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define AT(p, i) (*(Floats *)((p) + (i)))

INLINE float sum_of(Floats v) {
    const Floats8 *half = (const Floats8 *)&v;
    Floats8 eight = half[0] + half[1];
    const Floats4 *quarter = (const Floats4 *)&eight;
    Floats4 four = quarter[0] + quarter[1];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE float largest_of(Floats v) {
    float eight[8], four[4];
    for (int i = 0; i < 8; i++) eight[i] = v[i] > v[i + 8] ? v[i] : v[i + 8];
    for (int i = 0; i < 4; i++) four[i] = eight[i] > eight[i + 4] ? eight[i] : eight[i + 4];
    float one = four[0] > four[2] ? four[0] : four[2], two = four[1] > four[3] ? four[1] : four[3];
    return one > two ? one : two;
}

INLINE Floats either(Ints which, Floats yes, Floats no) {
    return (Floats)((which & (Ints)yes) | (~which & (Ints)no));
}

/* e^x to 2 units in the last place; 0 below -87, infinite above 88. 2^n * e^r, |r| <= ln 2 / 2. */
INLINE Floats exp_of(Floats x) {
    const Floats magic = (Floats){0} + 12582912.0f; /* rounds to a whole number when added */
    Floats shifted = x * 1.44269504f + magic;
    Floats n = shifted - magic;
    Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats p = 1.0f / 5040 * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    Bits power = ((Bits)shifted << 23) + (127u << 23); /* wraps where it is not looked at */
    Ints tiny = x < -87.0f, huge = x > 88.0f;
    Floats value = either(huge, (Floats){0} + INFINITY, p * (Floats)power);
    return (Floats)((Ints)value & ~tiny);
}

/* 1 / (1 + e^-x); 0 below -87. */
INLINE Floats sigmoid_of(Floats x) {
    Ints low = x < -87.0f;
    return (Floats)((Ints)(1.0f / (1.0f + exp_of(-x))) & ~low);
}

/* n = x / sqrt(mean(x^2) + epsilon); r [T] keeps the factor. x, n [T, width]. */
void norm_forward(const float *x, float *n, float *r, int64_t T, int64_t width, float epsilon) {
    for (int64_t t = 0; t < T; t++, x += width, n += width) {
        Floats squares = {0};
        for (int64_t i = 0; i < width; i += LANES) squares += AT(x, i) * AT(x, i);
        float factor = 1.0f / sqrtf(sum_of(squares) / width + epsilon);
        r[t] = factor;
        for (int64_t i = 0; i < width; i += LANES) AT(n, i) = AT(x, i) * factor;
    }
}

/* dx = beside + r * (dn - n * mean(dn * n)). All [T, width] but r [T]; dx may be beside. */
void norm_backward(const float *dn, const float *n, const float *r, const float *beside, float *dx,
                   int64_t T, int64_t width) {
    for (int64_t t = 0; t < T; t++, dn += width, n += width, beside += width, dx += width) {
        Floats products = {0};
        for (int64_t i = 0; i < width; i += LANES) products += AT(dn, i) * AT(n, i);
        float mean = sum_of(products) / width;
        for (int64_t i = 0; i < width; i += LANES)
            AT(dx, i) = AT(beside, i) + r[t] * (AT(dn, i) - AT(n, i) * mean);
    }
}

INLINE void turn(float *x, const float *cos, const float *sin, int64_t T, int64_t stride,
                 int64_t heads, int64_t dim, float sign) {
    int64_t half = dim / 2;
    for (int64_t t = 0; t < T; t++, x += stride, cos += dim, sin += dim)
        for (int64_t h = 0; h < heads; h++) {
            float *restrict low = x + h * dim, *restrict high = low + half;
            for (int64_t i = 0; i < half; i++) {
                float a = low[i], b = high[i];
                low[i] = a * cos[i] - sign * b * sin[i];
                high[i] = b * cos[i] + sign * a * sin[i];
            }
        }
}

/* Rope, in place, on the first `heads` heads of x [T, stride]; cos, sin [T, dim], halves alike.
   sign -1 turns back: the gradient. */
void rope(float *x, const float *cos, const float *sin, int64_t T, int64_t stride, int64_t heads,
          int64_t dim, float sign) {
    switch (dim) {
    case 16: turn(x, cos, sin, T, stride, heads, 16, sign); break;
    case 32: turn(x, cos, sin, T, stride, heads, 32, sign); break;
    case 64: turn(x, cos, sin, T, stride, heads, 64, sign); break;
    case 128: turn(x, cos, sin, T, stride, heads, 128, sign); break;
    default: turn(x, cos, sin, T, stride, heads, dim, sign);
    }
}

/* out [T, width] = silu(gate) * up, of both [T, 2 * width] side by side. */
void swiglu_forward(const float *both, float *out, int64_t T, int64_t width) {
    for (int64_t t = 0; t < T; t++, both += 2 * width, out += width)
        for (int64_t i = 0; i < width; i += LANES) {
            Floats gate = AT(both, i);
            AT(out, i) = gate * sigmoid_of(gate) * AT(both, width + i);
        }
}

/* dboth [T, 2 * width] of dout [T, width]. */
void swiglu_backward(const float *both, const float *dout, float *dboth, int64_t T,
                     int64_t width) {
    for (int64_t t = 0; t < T; t++, both += 2 * width, dboth += 2 * width, dout += width)
        for (int64_t i = 0; i < width; i += LANES) {
            Floats gate = AT(both, i), up = AT(both, width + i), d = AT(dout, i);
            Floats open = sigmoid_of(gate);
            AT(dboth, i) = d * up * open * (1.0f + gate * (1.0f - open));
            AT(dboth, width + i) = d * gate * open;
        }
}

/* ------------------------------------------------------------------ attention

   Causal, over sequences in one row. Each is four numbers of `runs`: where its beginning lies and
   how long that is, where its own tokens lie and how many they are. It sees both, in this order;
   only its own tokens ask. qkv [T, (heads + 2 * kv_heads) * dim]; out [T, heads * dim];
   peak [T, heads] is the log of the sum of e^score. */

typedef struct {
    int64_t heads, kv_heads, dim, stride;
    const int32_t *run;
    int64_t shared, own, seen, wide; /* wide: seen, rounded up to LANES */
} Sequence;

INLINE int64_t place(const Sequence *s, int64_t j) {
    return j < s->shared ? s->run[0] + j : s->run[2] + j - s->shared;
}

/* Lay one head of keys or values: as rows [seen, dim], and turned [dim, wide]. */
INLINE void lay(const Sequence *s, const float *from, int64_t dim, float *rows, float *turned) {
    for (int64_t j = 0; j < s->seen; j++) {
        const float *source = from + place(s, j) * s->stride;
        for (int64_t c = 0; c < dim; c += LANES) AT(rows, j * dim + c) = AT(source, c);
        for (int64_t c = 0; c < dim; c++) turned[c * s->wide + j] = source[c];
    }
}

/* products [up to n] = a [dim] . turned [dim, wide] */
INLINE void products(const float *a, const float *turned, float *out, int64_t n, int64_t wide,
                     int64_t dim) {
    for (int64_t j = 0; j < n; j += LANES) {
        Floats part[4] = {{0}, {0}, {0}, {0}};
        for (int64_t c = 0; c < dim; c += 4)
            for (int k = 0; k < 4; k++) part[k] += a[c + k] * AT(turned, (c + k) * wide + j);
        AT(out, j) = (part[0] + part[1]) + (part[2] + part[3]);
    }
}

/* out [dim] = weights [n] . rows [n, dim] */
INLINE void mixed(const float *weights, const float *rows, float *out, int64_t n, int64_t dim) {
    for (int64_t c = 0; c < dim; c += LANES) {
        Floats part[4] = {{0}, {0}, {0}, {0}};
        int64_t j = 0;
        for (; j + 4 <= n; j += 4)
            for (int k = 0; k < 4; k++) part[k] += weights[j + k] * AT(rows, (j + k) * dim + c);
        for (; j < n; j++) part[0] += weights[j] * AT(rows, j * dim + c);
        AT(out, c) = (part[0] + part[1]) + (part[2] + part[3]);
    }
}

/* p [n] = e^((p - largest) * scale), with zeros up to a multiple of LANES; returns their sum. */
INLINE float softened(float *p, int64_t n, float scale, float *largest) {
    const Ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int64_t last = (n - 1) / LANES * LANES;
    Ints beyond = lane >= (int32_t)(n - last);
    Floats most = either(beyond, (Floats){0} - INFINITY, AT(p, last));
    AT(p, last) = most;
    for (int64_t j = 0; j < last; j += LANES) most = either(AT(p, j) > most, AT(p, j), most);
    float peak = largest_of(most);
    Floats sums = {0};
    for (int64_t j = 0; j <= last; j += LANES) {
        Floats each = exp_of((AT(p, j) - peak) * scale);
        AT(p, j) = each;
        sums += each;
    }
    *largest = peak;
    return sum_of(sums);
}

INLINE void attend_head(const Sequence *s, const float *qkv, float *out, float *peak, int64_t head,
                        int64_t dim, float scale, float *rows, float *turned, float *scores) {
    for (int64_t i = 0; i < s->own; i++) {
        int64_t t = s->run[2] + i, n = s->shared + i + 1;
        products(qkv + t * s->stride + head * dim, turned, scores, n, s->wide, dim);
        float most, sum = softened(scores, n, scale, &most);
        float *to = out + (t * s->heads + head) * dim;
        mixed(scores, rows, to, n, dim);
        for (int64_t c = 0; c < dim; c += LANES) AT(to, c) = AT(to, c) / sum;
        peak[t * s->heads + head] = most * scale + logf(sum);
    }
}

INLINE void unattend_head(const Sequence *s, const float *qkv, const float *out, const float *peak,
                          const float *dout, float *dqkv, int64_t head, int64_t dim, float scale,
                          const float *keys, const float *turned_keys, const float *turned_values,
                          float *dkeys, float *dvalues, float *p, float *ds) {
    for (int64_t i = 0; i < s->own; i++) {
        int64_t t = s->run[2] + i, n = s->shared + i + 1, at = t * s->heads + head;
        const float *q = qkv + t * s->stride + head * dim, *d = dout + at * dim;
        Floats apart = {0};
        for (int64_t c = 0; c < dim; c += LANES) apart += AT(d, c) * AT(out, at * dim + c);
        float own = sum_of(apart);
        products(q, turned_keys, p, n, s->wide, dim);
        products(d, turned_values, ds, n, s->wide, dim);
        for (int64_t j = 0; j < n; j += LANES) {
            Floats weight = exp_of(AT(p, j) * scale - peak[at]);
            AT(p, j) = weight;
            AT(ds, j) = weight * (AT(ds, j) - own) * scale;
        }
        mixed(ds, keys, dqkv + t * s->stride + head * dim, n, dim);
        for (int64_t j = 0; j < n; j++)
            for (int64_t c = 0; c < dim; c += LANES) {
                AT(dkeys, j * dim + c) += ds[j] * AT(q, c);
                AT(dvalues, j * dim + c) += p[j] * AT(d, c);
            }
    }
}

#define EACH_DIM(call)                      \
    switch (s.dim) {                        \
    case 16: { enum { D = 16 }; call; break; } \
    case 32: { enum { D = 32 }; call; break; } \
    case 64: { enum { D = 64 }; call; break; } \
    default: { int64_t D = s.dim; call; }   \
    }

INLINE void begin(Sequence *s, const int32_t *run) {
    s->run = run;
    s->shared = run[1];
    s->own = run[3];
    s->seen = s->shared + s->own;
    s->wide = (s->seen + LANES - 1) / LANES * LANES;
}

/* Returns 0, or -1 without memory. `longest` is at least shared + own of every run. */
int attention_forward(const float *qkv, const int32_t *runs, float *out, float *peak,
                      int64_t sequences, int64_t longest, int64_t heads, int64_t kv_heads,
                      int64_t dim, float scale) {
    Sequence s = {.heads = heads, .kv_heads = kv_heads, .dim = dim};
    s.stride = (heads + 2 * kv_heads) * dim;
    int64_t wide = longest + LANES;
    float *memory = calloc((3 * dim + 1) * wide, sizeof(float));
    if (!memory) return -1;
    float *rows = memory, *turned = rows + dim * wide, *unused = turned + dim * wide;
    float *scores = unused + dim * wide;
    for (int64_t n = 0; n < sequences; n++) {
        begin(&s, runs + 4 * n);
        for (int64_t kv = 0; kv < kv_heads; kv++) {
            const float *keys = qkv + (heads + kv) * dim, *values = keys + kv_heads * dim;
            EACH_DIM(lay(&s, keys, D, unused, turned));
            EACH_DIM(for (int64_t j = 0; j < s.seen; j++) for (int64_t c = 0; c < D; c += LANES)
                         AT(rows, j * D + c) = AT(values, place(&s, j) * s.stride + c));
            for (int64_t h = kv * (heads / kv_heads); h < (kv + 1) * (heads / kv_heads); h++)
                EACH_DIM(attend_head(&s, qkv, out, peak, h, D, scale, rows, turned, scores));
        }
    }
    free(memory);
    return 0;
}

/* dqkv, all of it written. Returns 0, or -1 without memory. */
int attention_backward(const float *qkv, const int32_t *runs, const float *out, const float *peak,
                       const float *dout, float *dqkv, int64_t T, int64_t sequences,
                       int64_t longest, int64_t heads, int64_t kv_heads, int64_t dim,
                       float scale) {
    Sequence s = {.heads = heads, .kv_heads = kv_heads, .dim = dim};
    s.stride = (heads + 2 * kv_heads) * dim;
    int64_t wide = longest + LANES, one = dim * wide;
    float *memory = calloc(6 * one + 2 * wide, sizeof(float));
    if (!memory) return -1;
    float *keys = memory, *turned_keys = keys + one, *values = turned_keys + one;
    float *turned_values = values + one, *dkeys = turned_values + one, *dvalues = dkeys + one;
    float *p = dvalues + one, *ds = p + wide;
    memset(dqkv, 0, sizeof(float) * T * s.stride);
    for (int64_t n = 0; n < sequences; n++) {
        begin(&s, runs + 4 * n);
        for (int64_t kv = 0; kv < kv_heads; kv++) {
            int64_t k_at = (heads + kv) * dim, v_at = k_at + kv_heads * dim;
            EACH_DIM(lay(&s, qkv + k_at, D, keys, turned_keys));
            EACH_DIM(lay(&s, qkv + v_at, D, values, turned_values));
            memset(dkeys, 0, sizeof(float) * s.seen * dim);
            memset(dvalues, 0, sizeof(float) * s.seen * dim);
            for (int64_t h = kv * (heads / kv_heads); h < (kv + 1) * (heads / kv_heads); h++)
                EACH_DIM(unattend_head(&s, qkv, out, peak, dout, dqkv, h, D, scale, keys,
                                       turned_keys, turned_values, dkeys, dvalues, p, ds));
            for (int64_t j = 0; j < s.seen; j++) {
                float *to = dqkv + place(&s, j) * s.stride;
                for (int64_t c = 0; c < dim; c += LANES) {
                    AT(to, k_at + c) += AT(dkeys, j * dim + c);
                    AT(to, v_at + c) += AT(dvalues, j * dim + c);
                }
            }
        }
    }
    free(memory);
    return 0;
}

/* ------------------------------------------------------------------ attention of one new token */

INLINE void decode_head(const float *q, const float *keys, const float *values, float *to,
                        float *p, int64_t n, int64_t dim, float scale) {
    for (int64_t j = 0; j < n; j++) {
        Floats products = {0};
        for (int64_t c = 0; c < dim; c += LANES) products += AT(q, c) * AT(keys, j * dim + c);
        p[j] = sum_of(products);
    }
    float most, sum = softened(p, n, scale, &most);
    mixed(p, values, to, n, dim);
    for (int64_t c = 0; c < dim; c += LANES) AT(to, c) = AT(to, c) / sum;
}

/* Keys and values of one token of each of the first T rows are written at `positions`, and its
   queries see all up to there. qkv [T, (heads + 2 * kv_heads) * dim]; keys, values
   [rows, kv_heads, context, dim]; out [T, heads * dim]. Returns 0, -1 without memory, or -2 for a
   position that is not in the context: then nothing is written. */
int attention_decode(const float *qkv, float *keys, float *values, const int64_t *positions,
                     float *out, int64_t T, int64_t heads, int64_t kv_heads, int64_t dim,
                     int64_t context, float scale) {
    Sequence s = {.dim = dim, .stride = (heads + 2 * kv_heads) * dim};
    for (int64_t t = 0; t < T; t++)
        if (positions[t] < 0 || positions[t] >= context) return -2;
    float *p = malloc((context + LANES) * sizeof(float));
    if (!p) return -1;
    for (int64_t t = 0; t < T; t++, qkv += s.stride)
        for (int64_t kv = 0; kv < kv_heads; kv++) {
            int64_t at = (t * kv_heads + kv) * context * dim, n = positions[t] + 1;
            float *k = keys + at, *v = values + at;
            memcpy(k + (n - 1) * dim, qkv + (heads + kv) * dim, dim * sizeof(float));
            memcpy(v + (n - 1) * dim, qkv + (heads + kv_heads + kv) * dim, dim * sizeof(float));
            for (int64_t h = kv * (heads / kv_heads); h < (kv + 1) * (heads / kv_heads); h++)
                EACH_DIM(decode_head(qkv + h * dim, k, v, out + (t * heads + h) * dim, p, n, D,
                                     scale));
        }
    free(p);
    return 0;
}
