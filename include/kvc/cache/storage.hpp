// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/core/policy.hpp"
#include "kvc/core/text.hpp"

namespace kvc::inline v0_1 {

/// Physical order of a page's bytes. The portable one is the logical order that cache files hold.
enum class layout { portable };

/// How rows lie in memory; accepted by compose beside the axes.
///   TokensPerPage   rows of a page, a power of two from 16 on
///   RollbackRows    newest rows that a truncate cuts exactly (speculative decoding): the tail holds that many rows
///                   more, and codecs with groups of tokens leave that many unsealed
template <int TokensPerPage = 64, layout Layout = layout::portable, int RollbackRows = 8>
struct storage {
  static_assert(TokensPerPage >= 16 && (TokensPerPage & (TokensPerPage - 1)) == 0,
                "kvc: storage<TokensPerPage> must be a power of two, at least 16");
  static_assert(RollbackRows >= 0, "kvc: storage: RollbackRows must not be negative");

  using axis = storage_axis;
  static constexpr auto name = named("storage", TokensPerPage, text("portable"), RollbackRows);
  static constexpr int tokens_per_page = TokensPerPage;
  static constexpr int rollback_rows = RollbackRows;
};

}  // namespace kvc::inline v0_1
