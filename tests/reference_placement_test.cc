/* SPDX-License-Identifier: Apache-2.0
 * The reference does not care where things lie or how the work is cut: pages, strides, ragged rows, parts, append.
 */
#include <cmath>

#include <gtest/gtest.h>

#include "tests/reference_world.h"

namespace {

void decode(World &w)
{
    w.encode_all_keys();
    w.encode_queries();
    w.score();
    w.topk();
    w.attend(false);
}

template <typename T>
void expect_rows_equal(const World &a, const std::vector<uint8_t> &x, const hattn_tensor &tx, const World &b,
                       const std::vector<uint8_t> &y, const hattn_tensor &ty, int heads, int n)
{
    for (int row = 0; row < a.rows; row++)
        for (int h = 0; h < heads; h++)
            for (int i = 0; i < n; i++)
                ASSERT_EQ(a.get<T>(x, row * tx.stride[0] + h * tx.stride[1] + i),
                          b.get<T>(y, row * ty.stride[0] + h * ty.stride[1] + i))
                    << "row " << row << " head " << h << " at " << i;
}

/* Bytes that no element covers are as they were. */
void expect_gaps_untouched(const std::vector<uint8_t> &bytes, const hattn_tensor &t, int rows, int heads, int64_t last)
{
    std::vector<bool> covered(bytes.size());
    int64_t size = hattn_dtype_size(t.dtype);
    for (int row = 0; row < rows; row++)
        for (int h = 0; h < heads; h++)
            for (int64_t i = 0; i < last * size; i++)
                covered[(row * t.stride[0] + h * t.stride[1]) * size + i] = true;
    for (size_t i = 0; i < bytes.size(); i++)
        ASSERT_TRUE(covered[i] || bytes[i] == 0xaa) << i;
}

TEST(ReferencePlacement, PagesAndStridesDoNotMatter)
{
    for (int variant = 0; variant < 24; variant++) {
        Shape s;
        s.norms = variant % 2;
        s.score_kind = variant / 2 % 2 ? HATTN_SCORE_WEIGHTED : HATTN_SCORE_HAMMING;
        s.kv_dtype = variant % 3 == 0 ? HATTN_F32 : variant % 3 == 1 ? HATTN_F16 : HATTN_F8_E4M3;
        s.code_heads = s.selection_heads = variant / 6 % 2 ? 4 : 2;
        s.bits = variant % 4 ? 64 : 104;
        s.q_len = 1 + variant % 3;
        s.sink = variant % 3;
        s.recent = variant % 5;
        s.seed = static_cast<unsigned>(variant);
        World plain(s);
        decode(plain);
        for (int page_size : {0, 1, 7, 16, 64}) {
            s.page_size = page_size;
            s.spread = page_size != 7;
            World placed(s);
            decode(placed);
            const hattn_problem &p = plain.p, &t = placed.p;
            expect_rows_equal<int8_t>(plain, plain.weights, p.weights, placed, placed.weights, t.weights,
                                      s.selection_heads, s.bits);
            expect_rows_equal<int32_t>(plain, plain.indices, p.indices, placed, placed.indices, t.indices,
                                       s.selection_heads, s.k);
            expect_rows_equal<int32_t>(plain, plain.counts, p.counts, placed, placed.counts, t.counts,
                                       s.selection_heads, 1);
            expect_rows_equal<uint32_t>(plain, plain.out, p.out, placed, placed.out, t.out, s.q_heads, s.dv);
            expect_rows_equal<uint32_t>(plain, plain.lse, p.lse, placed, placed.lse, t.lse, s.q_heads, 1);
            for (int row = 0; row < plain.rows; row++)
                for (int h = 0; h < s.selection_heads; h++)
                    for (int64_t j = 0; j < s.max_length; j++) {
                        int64_t x = row * p.scores.stride[0] + h * p.scores.stride[1] + j;
                        int64_t y = row * t.scores.stride[0] + h * t.scores.stride[1] + j;
                        auto score = [&](const World &w, int64_t at) {
                            return s.norms ? w.get<uint32_t>(w.scores, at) : w.get<uint16_t>(w.scores, at);
                        };
                        ASSERT_EQ(score(plain, x), score(placed, y));
                        if (j >= plain.length(row)) {
                            ASSERT_EQ(s.norms ? 0xaaaaaaaau : 0xaaaau, score(plain, x));
                        }
                    }
            expect_gaps_untouched(placed.weights, t.weights, placed.rows, s.selection_heads, s.bits);
            expect_gaps_untouched(placed.indices, t.indices, placed.rows, s.selection_heads, s.k);
            expect_gaps_untouched(placed.scores, t.scores, placed.rows, s.selection_heads, s.max_length);
            expect_gaps_untouched(placed.out, t.out, placed.rows, s.q_heads, s.dv);
        }
    }
}

TEST(ReferencePlacement, LengthsZeroAndOne)
{
    Shape s;
    s.sequences = 4;
    s.q_len = 2;
    World w(s);
    w.seq_len = {0, 1, 2, s.max_length + 5};
    w.batch.seq_len = buffer(w.seq_len);
    decode(w);
    /* Two tokens a sequence: of -1 and 0, 0 and 1, 1 and 2 keys, and the clamped ones. */
    const int expected[] = {0, 0, 0, 1, 1, 2, s.k, s.k};
    for (int row = 0; row < 8; row++) {
        for (int sel = 0; sel < s.selection_heads; sel++)
            EXPECT_EQ(expected[row], w.get<int32_t>(w.counts, row * w.p.counts.stride[0] + sel)) << row;
        for (int h = 0; h < s.q_heads; h++) {
            float lse = w.get<float>(w.lse, row * w.p.lse.stride[0] + h);
            EXPECT_EQ(expected[row] == 0, lse == -INFINITY) << row;
            for (int i = 0; i < s.dv; i++) {
                float out = w.get<float>(w.out, row * w.p.out.stride[0] + h * w.p.out.stride[1] + i);
                float first_value = w.get<float>(w.v, w.at(w.p.v_cache, row / 2, 0, h / 2) + i);
                if (expected[row] < 2) {
                    EXPECT_EQ(expected[row] == 0 ? 0 : first_value, out);
                }
            }
        }
    }
}

TEST(ReferencePlacement, RaggedRowsAndPadding)
{
    Shape s;
    s.sequences = 4;
    s.q_len = 3;
    std::vector<int32_t> lengths = {20, 9, 30, 41};
    /* 3, 0, 1 and 2 tokens, then 6 rows of padding; the same queries in the same sequences. */
    std::vector<int32_t> starts = {0, 3, 3, 4, 6};
    const int even_row[] = {0, 1, 2, 8, 10, 11};
    World even(s), ragged(s);
    even.seq_len = ragged.seq_len = lengths;
    even.batch.seq_len = buffer(even.seq_len);
    ragged.batch.seq_len = buffer(ragged.seq_len);
    ragged.batch.q_start = buffer(starts);
    size_t row_bytes = ragged.p.q.stride[0] * sizeof(float);
    for (int row = 0; row < 6; row++)
        std::memcpy(&ragged.q[row * row_bytes], &even.q[even_row[row] * row_bytes], row_bytes);
    decode(even);
    decode(ragged);
    for (int row = 0; row < 6; row++) {
        auto compare = [&](std::vector<uint8_t> &a, std::vector<uint8_t> &b, size_t bytes) {
            EXPECT_EQ(0, std::memcmp(&a[row * bytes], &b[even_row[row] * bytes], bytes)) << row;
        };
        compare(ragged.indices, even.indices, ragged.p.indices.stride[0] * 4);
        compare(ragged.out, even.out, ragged.p.out.stride[0] * 4);
        compare(ragged.lse, even.lse, ragged.p.lse.stride[0] * 4);
    }
    for (int row = 6; row < 12; row++) {
        for (int sel = 0; sel < s.selection_heads; sel++) {
            int64_t at = row * ragged.p.counts.stride[0] + sel;
            EXPECT_EQ(0, ragged.get<int32_t>(ragged.counts, at));
            for (int i = 0; i < s.k; i++)
                EXPECT_EQ(-1, ragged.get<int32_t>(ragged.indices, at * s.k + i));
        }
        for (int h = 0; h < s.q_heads; h++) {
            EXPECT_EQ(-INFINITY, ragged.get<float>(ragged.lse, row * s.q_heads + h));
            EXPECT_EQ(0, ragged.get<float>(ragged.out, (row * s.q_heads + h) * s.dv));
        }
    }
}

TEST(ReferencePlacement, MergedHalvesAreTheWhole)
{
    for (unsigned seed = 0; seed < 6; seed++) {
        Shape s;
        s.seed = seed;
        World whole(s);
        whole.seq_len = {50, 1, static_cast<int>(seed)};
        whole.attend(true);
        /* Parts by selection: position j to part j % 3. Sequence 1 has one key, so two of its parts are empty. */
        std::vector<float> outs, lses;
        for (int part = 0; part < 3; part++) {
            s.k = s.max_length;
            World w(s);
            w.seq_len = whole.seq_len;
            for (int row = 0; row < w.rows; row++)
                for (int sel = 0; sel < s.selection_heads; sel++) {
                    int32_t count = 0;
                    for (int j = part; j < w.length(row); j += 3)
                        w.set<int32_t>(w.indices, (row * s.selection_heads + sel) * s.k + count++, j);
                    w.set<int32_t>(w.counts, row * s.selection_heads + sel, count);
                }
            w.attend(false);
            for (int64_t i = 0; i < w.rows * w.p.out.stride[0]; i++)
                outs.push_back(w.get<float>(w.out, i));
            for (int64_t i = 0; i < w.rows * w.p.lse.stride[0]; i++)
                lses.push_back(w.get<float>(w.lse, i));
        }
        hattn_problem p = whole.p;
        p.partial_out = {HATTN_F32, 0, {whole.rows * p.out.stride[0], p.out.stride[0], p.out.stride[1]}};
        p.partial_lse = {HATTN_F32, 0, {whole.rows * p.lse.stride[0], p.lse.stride[0], p.lse.stride[1]}};
        std::vector<float> out(outs.size() / 3, -7), lse(lses.size() / 3, -7);
        hattn_merge_args args = {sizeof(args), 3, whole.rows, 0, buffer(outs), buffer(lses), buffer(out), buffer(lse)};
        hattn_reference_merge(&p, &args);
        for (size_t i = 0; i < out.size(); i++)
            EXPECT_TRUE(std::fabs(out[i] - whole.get<float>(whole.out, i)) <= 0x1p-21) << out[i];
        for (size_t i = 0; i < lse.size(); i++) {
            float expected = whole.get<float>(whole.lse, i);
            if (expected == -INFINITY)
                EXPECT_EQ(expected, lse[i]);
            else
                EXPECT_TRUE(std::fabs(lse[i] - expected) <= 0x1p-21 * std::max(1.0f, std::fabs(expected))) << lse[i];
        }
    }
}

TEST(ReferencePlacement, AppendIsEncodeKeys)
{
    for (int variant = 0; variant < 16; variant++) {
        Shape s;
        s.kv_dtype = variant % 2 ? HATTN_F8_E4M3 : HATTN_F16;
        s.per_head_kv_scales = variant / 2 % 2;
        s.norms = variant / 4 % 2;
        s.page_size = variant / 8 ? 6 : 0;
        s.code_heads = s.selection_heads = variant % 3 ? 2 : 4;
        s.sequences = 5;
        s.q_len = 3;
        s.spread = variant % 5 > 1;
        World w(s), expected(s);
        /* Whole, partly before 0, none, partly past max_length, all past it. */
        w.seq_len = {17, 2, 0, s.max_length + 1, s.max_length + 9};
        const hattn_decode_args args = w.arguments().decode_args(true);
        hattn_reference_append(&w.p, &args);

        std::vector<uint8_t> k_new;
        std::vector<int64_t> slots;
        auto slot_of = [&](int64_t b, int64_t j) {
            const hattn_problem &p = w.p;
            return p.page_size ? static_cast<int64_t>(w.block_table[b * p.block_table.stride[0] + j / p.page_size]) *
                                         p.page_size +
                                     j % p.page_size
                               : b * p.max_length + j;
        };
        for (int b = 0; b < s.sequences; b++) {
            for (int64_t j = w.seq_len[b] - s.q_len; j < w.seq_len[b]; j++) {
                if (j < 0 || j >= s.max_length)
                    continue;
                slots.push_back(slot_of(b, j));
                std::vector<uint8_t> token(w.p.k_new.stride[0] * hattn_dtype_size(s.kv_dtype), 0xff);
                for (int g = 0; g < s.kv_heads; g++)
                    std::memcpy(&token[g * w.p.k_new.stride[1] * hattn_dtype_size(s.kv_dtype)],
                                &w.k[w.at(w.p.k_cache, b, j, g) * hattn_dtype_size(s.kv_dtype)],
                                s.d * hattn_dtype_size(s.kv_dtype));
                k_new.insert(k_new.end(), token.begin(), token.end());
            }
        }
        ASSERT_EQ(7u, slots.size());
        hattn_encode_keys_args encode = {};
        encode.num_tokens = static_cast<int32_t>(slots.size());
        encode.k_new = buffer(k_new);
        encode.k_scale = args.k_scale;
        encode.key_map = args.key_map;
        encode.slot_mapping = buffer(slots);
        encode.codes = buffer(expected.codes);
        encode.norms = s.norms ? buffer(expected.norms) : hattn_buffer{};
        hattn_reference_encode_keys(&expected.p, &encode);
        EXPECT_EQ(expected.codes, w.codes) << variant;
        EXPECT_EQ(expected.norms, w.norms) << variant;
        EXPECT_NE(World(s).codes, w.codes);
        EXPECT_EQ(s.norms == 1, World(s).norms != w.norms);
    }
}

} // namespace
