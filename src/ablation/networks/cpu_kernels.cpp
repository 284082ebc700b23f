// Batch norm, the sum with a shortcut and ReLU over channels_last pictures: two passes over memory forward, two
// backward. Formulas: Ioffe & Szegedy 2015 (arXiv 1502.03167, Sec. 3). Built and called by cpu_kernels.py.
//
// A batch is rows x channels in memory. The loops run over "lanes", a whole number of rows and of vectors: 64 values
// where the channels divide 64, and then of a length that the compiler knows. A thread's share depends on the number of
// threads alone, and sums are added up in the order of the threads: the same input gives the same bits. Sums are
// float32 over a block of lanes, then double.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include <omp.h>

using bf16 = uint16_t;

namespace {

constexpr long LANES = 64;
constexpr long BLOCK = 512;           // lanes' worth of values that are summed in float32
constexpr long WORTH_THREADS = 32768; // values; fewer are done before other threads have woken

inline float read(const float *p) { return *p; }
inline float read(const bf16 *p) {
    uint32_t bits = uint32_t(*p) << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline void write(float *p, float value) { *p = value; }
inline void write(bf16 *p, float value) { // to nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    *p = bf16(value != value ? 0x7fc0 : rounded);
}

// The gradient where ReLU let its input through; both are read in any case, or there would be a branch and no vectors.
template <class T> inline float behind_relu(const T *dy, const T *y) {
    float gradient = read(dy);
    return read(y) > 0 ? gradient : 0.f;
}

// Which values are a thread's, and two sums per channel over all of them.
struct Work {
    long values, channels, lanes, groups;
    int threads;
    std::vector<double> sums; // (threads, 2, channels)

    Work(long rows, long channels, int most)
        : values(rows * channels), channels(channels), lanes(std::lcm(channels, LANES)),
          groups((values + lanes - 1) / lanes), threads(values < WORTH_THREADS ? 1 : most),
          sums(size_t(threads) * 2 * channels, 0.0) {}

    long first(int thread) const { return groups * thread / threads; }
    double *of(int thread) { return sums.data() + size_t(thread) * 2 * channels; }
    double total(int which, long channel) {
        double sum = 0;
        for (int thread = 0; thread < threads; ++thread) sum += of(thread)[which * channels + channel];
        return sum;
    }
};

// Calls body(start of a group, its values) for a thread's groups; the last group of all may be short.
template <class Body>
inline __attribute__((always_inline)) void each(const Work &work, long lanes, long from, long to, Body body) {
    long whole = std::min(to, work.values / lanes);
    for (long group = from; group < whole; ++group) body(group * lanes, lanes);
    if (to > whole && from < to) body(whole * lanes, work.values - whole * lanes);
}

// Two sums per lane of what `body(index, lane, a, b)` adds to a and b, for a thread's groups, into its place in `work`.
template <class Body>
inline __attribute__((always_inline)) void sum(Work &work, long lanes, int thread, float *a, float *b, Body body) {
    double *sums = work.of(thread);
    for (long from = work.first(thread), end = work.first(thread + 1); from < end; from += BLOCK) {
        std::fill(a, a + lanes, 0.f);
        std::fill(b, b + lanes, 0.f);
        each(work, lanes, from, std::min(from + BLOCK, end), [&](long start, long count) {
            for (long lane = 0; lane < count; ++lane) body(start + lane, lane, a[lane], b[lane]);
        });
        for (long lane = 0; lane < lanes; ++lane) {
            sums[lane % work.channels] += a[lane];
            sums[work.channels + lane % work.channels] += b[lane];
        }
    }
}

template <class Body> void parallel(const Work &work, Body body) {
#pragma omp parallel num_threads(work.threads)
    for (int share = omp_get_thread_num(); share < work.threads; share += omp_get_num_threads()) body(share);
}

// One value a channel -> one a lane.
std::vector<float> spread(const Work &work, const std::vector<float> &of_channel) {
    std::vector<float> lanes(work.lanes);
    for (long lane = 0; lane < work.lanes; ++lane) lanes[lane] = of_channel[lane % work.channels];
    return lanes;
}

// The loops with their length known to the compiler where it is the usual one.
#define WITH_LANES(call) (work.lanes == LANES ? call(LANES) : call(work.lanes))

template <class T, bool HAS_SKIP>
void forward(const T *x, const T *skip, T *y, const float *weight, const float *bias, float *running_mean,
             float *running_var, int64_t *batches, float *mean, float *inverse, double momentum, double eps, long rows,
             long channels, int threads) {
    Work work(rows, channels, threads);
    parallel(work, [&](int thread) {
        std::vector<float> room(2 * work.lanes);
        auto run = [&](long lanes) __attribute__((always_inline)) {
            sum(work, lanes, thread, room.data(), room.data() + lanes, [&](long i, long, float &a, float &b) {
                float value = read(x + i);
                a += value;
                b += value * value;
            });
        };
        WITH_LANES(run);
    });
    std::vector<float> scales(channels), offsets(channels);
    for (long c = 0; c < channels; ++c) {
        double m = work.total(0, c) / rows, var = work.total(1, c) / rows - m * m;
        var = var < 0 ? 0 : var; // and not a number stays what it is
        double inv = 1 / std::sqrt(var + eps);
        mean[c] = float(m);
        inverse[c] = float(inv);
        running_mean[c] += float(momentum * (m - running_mean[c]));
        running_var[c] += float(momentum * (var * rows / (rows - 1) - running_var[c]));
        scales[c] = float(weight[c] * inv);
        offsets[c] = float(bias[c] - m * weight[c] * inv);
    }
    ++*batches;
    auto scale = spread(work, scales), offset = spread(work, offsets);
    parallel(work, [&](int thread) {
        const float *s = scale.data(), *o = offset.data();
        auto run = [&](long lanes) __attribute__((always_inline)) {
            each(work, lanes, work.first(thread), work.first(thread + 1), [&](long start, long count) {
                for (long lane = 0; lane < count; ++lane) {
                    float value = read(x + start + lane) * s[lane] + o[lane];
                    if (HAS_SKIP) value += read(skip + start + lane);
                    write(y + start + lane, value < 0 ? 0 : value);
                }
            });
        };
        WITH_LANES(run);
    });
}

template <class T, bool HAS_SKIP>
void backward(const T *dy, const T *x, const T *y, const float *weight, const float *mean, const float *inverse, T *dx,
              T *dskip, float *dweight, float *dbias, long rows, long channels, int threads) {
    Work work(rows, channels, threads);
    std::vector<float> means(mean, mean + channels);
    auto m = spread(work, means);
    parallel(work, [&](int thread) {
        std::vector<float> room(2 * work.lanes);
        const float *centre = m.data();
        auto run = [&](long lanes) __attribute__((always_inline)) {
            sum(work, lanes, thread, room.data(), room.data() + lanes, [&](long i, long lane, float &a, float &b) {
                float gradient = behind_relu(dy + i, y + i);
                if (HAS_SKIP) write(dskip + i, gradient);
                a += gradient;
                b += gradient * (read(x + i) - centre[lane]);
            });
        };
        WITH_LANES(run);
    });
    // dx = (g - mean(g) - xhat mean(g xhat)) weight / std, as g a + x b + c
    std::vector<float> as(channels), bs(channels), cs(channels);
    for (long c = 0; c < channels; ++c) {
        double db = work.total(0, c), dw = work.total(1, c) * inverse[c];
        dbias[c] = float(db);
        dweight[c] = float(dw);
        double a = double(weight[c]) * inverse[c], b = -a * dw / rows * inverse[c];
        as[c] = float(a);
        bs[c] = float(b);
        cs[c] = float(-a * db / rows - b * mean[c]);
    }
    auto a = spread(work, as), b = spread(work, bs), c = spread(work, cs);
    parallel(work, [&](int thread) {
        const float *pa = a.data(), *pb = b.data(), *pc = c.data();
        auto run = [&](long lanes) __attribute__((always_inline)) {
            each(work, lanes, work.first(thread), work.first(thread + 1), [&](long start, long count) {
                for (long lane = 0; lane < count; ++lane) {
                    long i = start + lane;
                    float gradient = HAS_SKIP ? read(dskip + i) : behind_relu(dy + i, y + i);
                    write(dx + i, gradient * pa[lane] + read(x + i) * pb[lane] + pc[lane]);
                }
            });
        };
        WITH_LANES(run);
    });
}

} // namespace

#define EXPORT(T, NAME)                                                                                                \
    extern "C" void forward_##NAME(const T *x, const T *skip, T *y, const float *weight, const float *bias,           \
                                   float *running_mean, float *running_var, int64_t *batches, float *mean,            \
                                   float *inverse, double momentum, double eps, long rows, long channels,             \
                                   int threads) {                                                                      \
        (skip ? forward<T, true> : forward<T, false>)(x, skip, y, weight, bias, running_mean, running_var, batches,    \
                                                      mean, inverse, momentum, eps, rows, channels, threads);          \
    }                                                                                                                  \
    extern "C" void backward_##NAME(const T *dy, const T *x, const T *y, const float *weight, const float *mean,      \
                                    const float *inverse, T *dx, T *dskip, float *dweight, float *dbias, long rows,   \
                                    long channels, int threads) {                                                      \
        (dskip ? backward<T, true> : backward<T, false>)(dy, x, y, weight, mean, inverse, dx, dskip, dweight, dbias,   \
                                                         rows, channels, threads);                                     \
    }

EXPORT(float, float32)
EXPORT(bf16, bfloat16)
