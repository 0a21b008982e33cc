// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "codec_checks.hpp"

TEST_CASE("integer codecs, midrise, per token, against the independent decoder") {
  codec_checks::check_all(policy_lists::per_token_of<kvc::quant::midrise>{});
}
