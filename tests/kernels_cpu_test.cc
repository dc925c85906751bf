/* SPDX-License-Identifier: Apache-2.0
 * Every row of kernels.inc against formulas written out here: selection, conversions, encode, scores.
 */
#include <algorithm>

#include "tests/kernels_cpu_rows.h"

namespace {

constexpr int32_t kFloats[] = {HATTN_F32, HATTN_F16, HATTN_BF16},
                  kAllFloats[] = {HATTN_F32, HATTN_F16, HATTN_BF16, HATTN_F8_E4M3};
const float kInfinity = INFINITY;

TEST(CpuFeatures, DisableListAndNames)
{
    const char *before = std::getenv("HATTN_CPU_DISABLE");
    const std::string kept = before ? before : "";
    ASSERT_EQ(unsetenv("HATTN_CPU_DISABLE"), 0);
    const unsigned all = machine_isas(), no_avx512 = all & ~static_cast<unsigned>(HATTN_ISA_AVX512);
    EXPECT_TRUE(all & HATTN_ISA_SCALAR);
    for (const auto &[list, left] : std::vector<std::pair<const char *, unsigned>>{
             {"", all},
             {" , ,,", all},
             {"avx512", no_avx512},
             {" AVX512 ,", no_avx512},
             {"avx512,avx2,neon,scalar", HATTN_ISA_SCALAR},
             {"avx512, Avx2 ,\tneon", HATTN_ISA_SCALAR},
         }) {
        setenv("HATTN_CPU_DISABLE", list, 1);
        EXPECT_EQ(machine_isas(), left) << "'" << list << "'";
    }
    for (const auto &[list, word] : std::vector<std::pair<const char *, std::string>>{
             {",,avx51", "avx51"},
             {"avx512, avx-512", "avx-512"},
             {"avx2;avx512", "avx2;av"},
             {"all", "all"},
         }) {
        setenv("HATTN_CPU_DISABLE", list, 1);
        char unknown[8];
        EXPECT_EQ(hattn_cpu_isas(unknown, sizeof(unknown)), 0u) << "'" << list << "'";
        EXPECT_EQ(unknown, word);
    }
    if (kept.empty()) {
        unsetenv("HATTN_CPU_DISABLE");
    } else {
        setenv("HATTN_CPU_DISABLE", kept.c_str(), 1);
    }
    const unsigned x86 = HATTN_ISA_SCALAR | HATTN_ISA_AVX2 | HATTN_ISA_AVX512;
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, "avx2"), HATTN_ISA_SCALAR | HATTN_ISA_AVX2);
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, "AVX2"), HATTN_ISA_SCALAR | HATTN_ISA_AVX2);
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, "scalar"), HATTN_ISA_SCALAR);
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, "neon"), 0u);
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, "avx"), 0u);
    EXPECT_EQ(hattn_cpu_isas_up_to(x86, ""), 0u);
    EXPECT_STREQ(hattn_cpu_isa_name(x86), "avx512");
    EXPECT_STREQ(hattn_cpu_isa_name(HATTN_ISA_SCALAR), "scalar");
}

TEST(Select, FirstRowOfTheIsas)
{
    for (unsigned isas : {0u, 1u, 2u, 4u, 5u, 8u, 15u}) {
        hattn_cpu_kernels kernels;
        memset(&kernels, 0xAA, sizeof kernels);
        hattn_cpu_kernels_select(isas, &kernels);
        const Rows rows;
#define X(op)                                                                                                         \
    {                                                                                                                 \
        auto row =                                                                                                    \
            std::find_if(rows.op.begin(), rows.op.end(), [&](auto &r) { return r.isa & (isas | HATTN_ISA_SCALAR); }); \
        ASSERT_NE(row, rows.op.end()) << #op;                                                                         \
        EXPECT_EQ(kernels.op, row->kernel) << #op << " isas " << isas;                                                \
    }
        HATTN_CPU_OPS(X)
#undef X
    }
}

using Load = KernelTest<hattn_load_fn>;
HATTN_TEST_ROWS(Load, load);

TEST_P(Load, EveryPattern)
{
    for (int32_t dtype : {HATTN_F16, HATTN_BF16, HATTN_F8_E4M3}) {
        const int n = dtype == HATTN_F8_E4M3 ? 256 : 65536;
        Guarded<uint8_t> src(static_cast<size_t>(n) * size_of(dtype), Place::kBack);
        for (int i = 0; i < n; i++) {
            const uint16_t half = static_cast<uint16_t>(i);
            memcpy(src.data() + static_cast<size_t>(i) * size_of(dtype), &half, size_of(dtype));
        }
        for (float scale : {1.0f, 0.37f}) {
            Guarded<float> dst(n, Place::kFront), scalar(n, Place::kFront);
            kernel()(src.data(), dtype, n, scale, dst.data());
            hattn_load_scalar(src.data(), dtype, n, scale, scalar.data());
            for (int i = 0; i < n; i++) {
                const double value = decode(src.data(), dtype, i);
                if (std::isnan(value)) {
                    ASSERT_TRUE(std::isnan(dst[i])) << name_of(dtype) << " pattern " << i;
                } else {
                    ASSERT_EQ(bits_of(dst[i]), bits_of(static_cast<float>(value) * scale))
                        << name_of(dtype) << " pattern " << i;
                }
                ASSERT_EQ(bits_of(dst[i]), bits_of(scalar[i])) << name_of(dtype) << " pattern " << i;
            }
        }
    }
}

TEST_P(Load, SizesAndEdges)
{
    for (Place place : kPlaces) {
        for (int32_t dtype : kAllFloats) {
            for (int n : {0, 1, 7, 8, 15, 16, 17, 31, 33, 48, 100, 576}) {
                Guarded<uint8_t> src(static_cast<size_t>(n) * size_of(dtype), place);
                Guarded<float> dst(n, place);
                for (int i = 0; i < n; i++)
                    encode_near(src.data(), dtype, i, normal());
                kernel()(src.data(), dtype, n, 1.5f, dst.data());
                for (int i = 0; i < n; i++)
                    ASSERT_EQ(dst[i], static_cast<float>(decode(src.data(), dtype, i)) * 1.5f)
                        << name_of(dtype) << " n " << n << " i " << i;
                ASSERT_TRUE(dst.untouched_outside()) << name_of(dtype) << " n " << n;
            }
        }
    }
}

using Store = KernelTest<hattn_store_fn>;
HATTN_TEST_ROWS(Store, store);

/* Nearest value with `mantissa_bits`, ties to even, in double. */
double round_to(double value, int mantissa_bits, int min_exponent, double max)
{
    if (value == 0 || !std::isfinite(value))
        return value;
    const int exponent = std::max(std::ilogb(value), min_exponent);
    const double rounded =
        std::ldexp(std::nearbyint(std::ldexp(value, mantissa_bits - exponent)), exponent - mantissa_bits);
    return std::fabs(rounded) > max ? std::copysign(static_cast<double>(kInfinity), value) : rounded;
}

TEST_P(Store, RoundsToNearestEven)
{
    std::vector<float> values = {0.0f,
                                 -0.0f,
                                 1.0f,
                                 65504.0f,
                                 65519.996f,
                                 65520.0f,
                                 -65520.0f,
                                 3.4028235e38f,
                                 kInfinity,
                                 -kInfinity,
                                 NAN,
                                 -NAN,
                                 float_of(0x7f800001),
                                 float_of(0xff812345),
                                 float_of(0x7fffffff),
                                 0x1p-14f,
                                 0x1p-24f,
                                 0x1p-25f,
                                 0x1.8p-25f,
                                 0x1.000002p-25f,
                                 0x1p-149f,
                                 0x1.ffcp-15f,
                                 0x1.ffep-15f};
    for (uint32_t half = 0; half < 0x7c00; half += 7) { /* ties and their neighbours */
        const float low = static_cast<float>(decode_float(half, 5, 10, true)),
                    high = static_cast<float>(decode_float(half + 1, 5, 10, true)), tie = low + (high - low) / 2;
        values.insert(values.end(), {tie, -tie, std::nextafter(tie, 0.0f), std::nextafter(tie, kInfinity)});
    }
    for (uint32_t half = 0; half < 0x7f80; half += 13) {
        const uint32_t tie = half << 16 | 0x8000;
        values.insert(values.end(), {float_of(tie), -float_of(tie), float_of(tie - 1), float_of(tie + 1)});
    }
    for (int i = 0; i < 100000; i++)
        values.push_back(float_of(static_cast<uint32_t>(rng())));
    const int n = static_cast<int>(values.size());
    Guarded<uint16_t> dst(values.size(), Place::kBack), scalar(values.size(), Place::kBack);
    for (int32_t dtype : {HATTN_F16, HATTN_BF16}) {
        kernel()(values.data(), n, dtype, dst.data());
        hattn_store_scalar(values.data(), n, dtype, scalar.data());
        for (int i = 0; i < n; i++) {
            const double want = dtype == HATTN_F16 ? round_to(values[i], 10, -14, 65504)
                                                   : round_to(values[i], 7, -126, 3.3895313892515355e38);
            const double got = decode(dst.data(), dtype, i);
            ASSERT_EQ(dst[i], scalar[i]) << name_of(dtype) << " of " << values[i] << " bits " << std::hex
                                         << bits_of(values[i]);
            ASSERT_EQ(std::isnan(got), std::isnan(want)) << values[i];
            if (std::isnan(want))
                continue;
            ASSERT_EQ(got, want) << name_of(dtype) << " of " << values[i] << " bits " << std::hex << bits_of(values[i]);
            ASSERT_EQ(std::signbit(got), std::signbit(want));
        }
    }
}

TEST_P(Store, SizesAndEdges)
{
    for (Place place : kPlaces) {
        for (int32_t dtype : kFloats) {
            for (int n : {0, 1, 7, 8, 15, 16, 17, 33, 100, 576}) {
                Guarded<float> src(n, place);
                Guarded<uint8_t> dst(static_cast<size_t>(n) * size_of(dtype), place);
                for (int i = 0; i < n; i++)
                    src[i] = static_cast<float>(pick(-100, 100));
                kernel()(src.data(), n, dtype, dst.data());
                for (int i = 0; i < n; i++)
                    ASSERT_EQ(decode(dst.data(), dtype, i), src[i]) << name_of(dtype) << " n " << n << " i " << i;
                ASSERT_TRUE(dst.untouched_outside()) << name_of(dtype) << " n " << n;
            }
        }
    }
}

using Project = KernelTest<hattn_project_fn>;
HATTN_TEST_ROWS(Project, project);

/* z / (1 + e^-z): e^-z is within 1.01 units in the last place, the sum and the quotient add half of one each; and what is left of
 * the one of e^-z, where it is larger than 1. */
constexpr double kSiluError = 2.1 * 0x1p-23;

TEST_P(Project, SumsWithinTheContract)
{
    struct Shape {
        int num_x, num_inputs, num_outputs;
    };
    std::vector<Shape> shapes = {{1, 8, 8},     {2, 16, 24},     {3, 24, 64},   {4, 128, 128},
                                 {5, 72, 40},   {7, 32, 136},    {8, 128, 64},  {9, 576, 72},
                                 {33, 64, 128}, {128, 128, 128}, {4, 1024, 512}};
    for (int i = 0; i < 20; i++)
        shapes.push_back({pick(1, 40), 8 * pick(1, 20), 8 * pick(1, 20)});
    int index = 0;
    for (const Shape &s : shapes) {
        for (int32_t dtype : kFloats) {
            const Place place = kPlaces[index++ % 2];
            const bool with_bias = index % 3 != 0, with_silu = index % 5 < 2;
            const int64_t stride_x = s.num_inputs + index % 4, stride_weight = s.num_outputs + index % 7,
                          stride_z = s.num_outputs + index % 3 * 5;
            Guarded<float> x(stride_x * (s.num_x - 1) + s.num_inputs, place),
                z(stride_z * (s.num_x - 1) + s.num_outputs, place);
            Guarded<uint8_t> weight(
                static_cast<size_t>(stride_weight * (s.num_inputs - 1) + s.num_outputs) * size_of(dtype), place),
                bias(static_cast<size_t>(s.num_outputs) * size_of(dtype), place);
            for (size_t i = 0; i < x.size(); i++)
                x[i] = normal();
            for (int64_t i = 0; i < static_cast<int64_t>(weight.size() / size_of(dtype)); i++)
                encode_near(weight.data(), dtype, i, normal());
            for (int i = 0; i < s.num_outputs; i++)
                encode_near(bias.data(), dtype, i, normal());
            const hattn_layer layer = {x.data(),      stride_x,      s.num_x,
                                       s.num_inputs,  s.num_outputs, with_silu,
                                       weight.data(), stride_weight, with_bias ? bias.data() : nullptr,
                                       dtype,         z.data(),      stride_z};
            kernel()(&layer);
            ASSERT_TRUE(z.untouched_outside());
            for (int v = 0; v < s.num_x; v++) {
                for (int o = 0; o < stride_z && v * stride_z + o < static_cast<int64_t>(z.size()); o++) {
                    const float got = z[v * stride_z + o];
                    if (o >= s.num_outputs) {
                        ASSERT_EQ(bits_of(got), 0xAAAAAAAAu) << "padding of z written";
                        continue;
                    }
                    double sum = with_bias ? decode(bias.data(), dtype, o) : 0.0, magnitude = std::fabs(sum);
                    for (int i = 0; i < s.num_inputs; i++) {
                        const double term = static_cast<double>(x[v * stride_x + i]) *
                                            decode(weight.data(), dtype, i * stride_weight + o);
                        sum += term;
                        magnitude += std::fabs(term);
                    }
                    const double bound = (s.num_inputs + 8) * 0x1p-23 * magnitude,
                                 want = with_silu ? sum / (1 + std::exp(-sum)) : sum;
                    ASSERT_LE(std::fabs(got - want), with_silu ? 1.1 * bound + kSiluError * std::fabs(want) : bound)
                        << name_of(dtype) << " x " << s.num_x << " in " << s.num_inputs << " out " << s.num_outputs
                        << " silu " << with_silu << " [" << v << "][" << o << "] got " << got << " want " << want;
                }
            }
        }
    }
}

/* Of sums that are exact, so that there is no other rounding to hide behind. */
TEST_P(Project, Silu)
{
    std::vector<float> inputs = {-1e30f, -200.0f, -110.0f, -1e-20f, 0.0f, 50.0f, 1e30f};
    for (float z = -86.5f; z < 100.0f; z += 0.0137f)
        inputs.push_back(z);
    inputs.resize((inputs.size() + 7) / 8 * 8, 1.0f);
    const int n = static_cast<int>(inputs.size());
    std::vector<float> x = {1, 0, 0, 0, 0, 0, 0, 0}, weight(8 * n), z(n);
    std::copy(inputs.begin(), inputs.end(), weight.begin());
    const hattn_layer layer = {x.data(), 8, 1, 8, n, 1, weight.data(), n, nullptr, HATTN_F32, z.data(), n};
    kernel()(&layer);
    double unfused = 0;
#ifdef __x86_64__
    if (strstr(GetParam().symbol, "_neon")) /* SIMDe's does not fuse, which costs the exponent of e^-z a rounding */
        unfused = 0x1p-24;
#endif
    for (size_t i = 0; i < inputs.size(); i++) {
        const double want = inputs[i] / (1 + std::exp(-static_cast<double>(inputs[i]))),
                     error = kSiluError + unfused * std::fabs(inputs[i]);
        /* From z = -87 on e^z is subnormal and may be 0: |z e^z| is below 1e-36 there. */
        ASSERT_LE(std::fabs(z[i] - want), error * std::fabs(want) + 1e-36) << inputs[i] << " got " << z[i];
    }
    weight[0] = NAN;
    kernel()(&layer);
    EXPECT_TRUE(std::isnan(z[0]));
}

using Pack = KernelTest<hattn_pack_fn>;
HATTN_TEST_ROWS(Pack, pack);

TEST_P(Pack, BitsOfPositiveValues)
{
    const float special[] = {0.0f, -0.0f, NAN, -NAN, kInfinity, -kInfinity, 0x1p-149f, -0x1p-149f, 1.0f, -1.0f};
    for (Place place : kPlaces) {
        for (int num_bits = 8; num_bits <= 512; num_bits += 8) {
            Guarded<float> z(num_bits, place);
            Guarded<uint32_t> code(static_cast<size_t>(num_bits + 31) / 32, place);
            for (int pattern = 0; pattern < 4; pattern++) {
                for (int r = 0; r < num_bits; r++)
                    z[r] = pattern == 0 ? 1.0f : pattern == 1 ? -1.0f : pattern == 2 ? special[pick(0, 9)] : normal();
                kernel()(z.data(), num_bits, code.data());
                for (int r = 0; r < static_cast<int>(code.size()) * 32; r++)
                    ASSERT_EQ(code[r / 32] >> r % 32 & 1, r < num_bits && z[r] > 0 ? 1u : 0u)
                        << "bits " << num_bits << " r " << r;
                ASSERT_TRUE(code.untouched_outside());
            }
        }
    }
}

using Norm = KernelTest<hattn_norm_fn>;
HATTN_TEST_ROWS(Norm, norm);

TEST_P(Norm, WithinOneStepOfDouble)
{
    for (Place place : kPlaces) {
        for (int n = 1; n <= 600; n += n < 70 ? 1 : 53) {
            Guarded<float> x(n, place);
            double sum = 0;
            const float scale = std::ldexp(1.0f, pick(-18, 10));
            for (int i = 0; i < n; i++) {
                x[i] = scale * normal();
                sum += static_cast<double>(x[i]) * x[i];
            }
            const uint16_t got = kernel()(x.data(), n);
            const double value = decode_float(got, 5, 10, true), want = std::sqrt(sum);
            const double below = got ? decode_float(got - 1u, 5, 10, true) : 0.0,
                         above = decode_float(got + 1u, 5, 10, true);
            if (want >= 65520) {
                EXPECT_EQ(value, kInfinity);
            } else {
                /* n roundings of products and sums in fp32, of which the root halves what they make, and its own. */
                const double slack = (n / 2.0 + 2) * 0x1p-24;
                EXPECT_TRUE(want >= (below + value) / 2 * (1 - slack) && want <= (above + value) / 2 * (1 + slack))
                    << n << " got " << value << " want " << want;
            }
        }
    }
    std::vector<float> x(40, 0.0f);
    EXPECT_EQ(kernel()(x.data(), 40), 0);
    x[39] = 65519.0f;
    EXPECT_EQ(kernel()(x.data(), 40), 0x7bff);
    x[39] = 65521.0f;
    EXPECT_EQ(kernel()(x.data(), 40), 0x7c00);
    x[3] = 1e30f;
    EXPECT_EQ(kernel()(x.data(), 40), 0x7c00);
    x[3] = NAN;
    EXPECT_TRUE(std::isnan(decode_float(kernel()(x.data(), 40), 5, 10, true)));
}

} // namespace
