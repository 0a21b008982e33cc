// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/route.hpp"
#include "kvc/cache/spec.hpp"
#include "kvc/host/attend_plan.hpp"

namespace kvc::inline v0_1::host {

using kvc::operation;
using kvc::route_answer;

/// Nothing falls back in silence: what a call will do can be asked beforehand.
template <class Spec>
constexpr route_answer route(operation op) {
  switch (op) {
    case operation::append:
      if (Spec::has_ring) {
        return {status::ok, "append_page, sealing",
                "rows wait in the open tail until their group of tokens is full or old enough"};
      }
      return {status::ok, "append_page", "every row is encoded at once"};
    case operation::append_slots:
      if (Spec::has_tail) {
        return {status::unsupported, "none",
                "exact rows and open groups belong to a sequence, which a slot mapping does not name"};
      }
      return {status::ok, "append_page", "every row is encoded at once"};
    case operation::attend:
      if (Spec::is_latent) {
        if (detail::attend_shape<Spec>::first_is_packed) {
          return {status::ok, "packed codes, latent",
                  "8-bit products with codes as they lie; each row serves scores and values of all heads"};
        }
        return {status::ok, "fp32 tiles, latent", "each decoded row serves scores and values of all heads"};
      }
      if (Spec::first_stream::is_deferred) {
        return {status::ok, "fp32 tiles, expanded keys",
                "keys are stored before their rotary embedding: tiles are expanded and turned"};
      }
      if (detail::attend_shape<Spec>::first_is_packed && detail::attend_shape<Spec>::second_is_packed) {
        return {status::ok, "packed codes", "8-bit products with codes as they lie, queries folded into their space"};
      }
      if (detail::attend_shape<Spec>::has_codes) {
        return {status::ok, "packed codes and fp32 tiles",
                "8-bit products with the codes of one stream; the other is decoded, tile by tile"};
      }
      return {status::ok, "fp32 tiles",
              "queries are folded into the stored space, tiles are decoded once per block of queries"};
    case operation::gather:
      return {status::ok, "row by row", "decodes, and undoes the row transforms"};
    case operation::fork:
      return {status::ok, "shared pages", "pages are shared until one side writes, tails are copied"};
    case operation::truncate:
      if (Spec::tokens_policy::window > 0) {
        return {status::ok, "unseal",
                "refused with status::evicted where a row that was dropped would be visible again"};
      }
      return {status::ok, "unseal", "sealed rows that belong to the tail again come back as they decode"};
    case operation::save:
      return {status::ok, "portable bytes", "sealed rows, exact rows, and a header that describes them"};
  }
  return {status::invalid_argument, "none", "no such operation"};
}

}  // namespace kvc::inline v0_1::host
