/* SPDX-License-Identifier: Apache-2.0
 * exp and tanh of fp32, fitted for the least relative error; each instruction set evaluates them with its own vectors.
 */
#ifndef HATTN_KERNELS_CPU_FITTED_H
#define HATTN_KERNELS_CPU_FITTED_H

/* e^x = 2^n e^r, n = rint(x / ln2), r = x - n ln2 with ln2 in two pieces, |r| <= ln2 / 2; e^r = 1 + r + r^2 P(r), relative error
 * 3.1e-9. Below the lowest x the result is 0, above the highest infinite. P from the highest power on. */
#define HATTN_EXP_LOWEST (-110.0f)
#define HATTN_EXP_HIGHEST 100.0f
#define HATTN_EXP_PER_LN2 0x1.715476p+0f
#define HATTN_EXP_LN2_HIGH 0x1.62e430p-1f
#define HATTN_EXP_LN2_LOW (-0x1.05c610p-29f)
#define HATTN_EXP_P4 0x1.6a2256p-10f
#define HATTN_EXP_P3 0x1.123b04p-7f
#define HATTN_EXP_P2 0x1.5558f8p-5f
#define HATTN_EXP_P1 0x1.555490p-3f
#define HATTN_EXP_P0 0x1.fffffcp-2f

/* tanh x = x + x^3 P(x^2) below HATTN_TANH_SMALL, relative error 1.3e-9; above, (1 - e^-2|x|) / (1 + e^-2|x|) with the sign of x. */
#define HATTN_TANH_SMALL 0.56f
#define HATTN_TANH_P4 (-0.006198689807206392f)
#define HATTN_TANH_P3 0.02102053165435791f
#define HATTN_TANH_P2 (-0.0538405142724514f)
#define HATTN_TANH_P1 0.13332480192184448f
#define HATTN_TANH_P0 (-0.3333331346511841f)

#endif
