// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "kvc/cache/stream.hpp"

// Rows between the model's space and the stored space of a stream:
//
//   model row --dims--> --wrappers, outermost first--> stored row --> bf16 tail or codec
//
// Constants of a stream and stored head: [dims_floats][wrapper floats, outermost first].
//
// All of it is executed by a team (core/team.hpp). A policy whose functions take no team is run by the team's first
// thread, and the others wait: right, and slow, so that route() says so.

namespace kvc::inline v0_1 {

namespace detail {

/// The wrappers of a quant policy, applied in turn. Policies without row functions (exact_ends, codecs) pass through.
template <class Q, int Width>
struct wrappers {
  template <class Team = serial_team>
  KVC_HD static void forward(float* /*x*/, const float* /*constants*/, Team /*team*/ = {}) {}
  template <class Team = serial_team>
  KVC_HD static void inverse(float* /*x*/, const float* /*constants*/, Team /*team*/ = {}) {}
  template <class Team = serial_team>
  KVC_HD static float fold_query(float* /*q*/, const float* /*constants*/, Team /*team*/ = {}) {
    return 0;
  }
  template <class Team = serial_team>
  KVC_HD static void unfold_output(float* /*o*/, float /*mass*/, const float* /*constants*/, Team /*team*/ = {}) {}
  static void initialise(float* /*constants*/) {}
  static constexpr bool is_identity = true;
  template <class Team>
  static constexpr bool take_team = true;
  template <class Team>
  static constexpr bool take_shares = true;
  template <class Team>
  KVC_HD static void forward_share(float* /*x*/, const float* /*constants*/, Team /*team*/) {}
};

template <class Q, int Width>
requires quant::is_wrapper<Q>
struct wrappers<Q, Width> {
  using inner = wrappers<typename Q::inner_codec, Width>;
  static constexpr bool has_rows = requires(float* x) { Q::template forward<Width>(x, x); };
  static constexpr int own = wrapper_floats<Q, Width>::own();
  static constexpr bool is_identity = !has_rows && inner::is_identity;
  template <class Team>
  static constexpr bool own_takes_team = quant::detail::rows_take_team<Q, Width, Team>;
  template <class Team>
  static constexpr bool take_team = (!has_rows || own_takes_team<Team>)&&inner::template take_team<Team>;
  template <class Team>
  static constexpr bool take_shares =
      (!has_rows || quant::detail::forwards_share<Q, Width, Team>)&&inner::template take_shares<Team>;

  template <class Team = serial_team>
  KVC_HD static void forward(float* x, const float* constants, Team team = {}) {
    if constexpr (has_rows && own_takes_team<Team>) {
      Q::template forward<Width>(x, constants, team);
    } else if constexpr (has_rows) {
      if (team.rank() == 0) Q::template forward<Width>(x, constants);
      team.sync();
    }
    inner::forward(x, constants + own, team);
  }
  /// The same of a row in its team's registers.
  template <class Team>
  KVC_HD static void forward_share(float* x, const float* constants, Team team) {
    if constexpr (has_rows) Q::template forward_share<Width>(x, constants, team);
    inner::forward_share(x, constants + own, team);
  }
  template <class Team = serial_team>
  KVC_HD static void inverse(float* x, const float* constants, Team team = {}) {
    inner::inverse(x, constants + own, team);
    if constexpr (has_rows && own_takes_team<Team>) {
      Q::template inverse<Width>(x, constants, team);
    } else if constexpr (has_rows) {
      if (team.rank() == 0) Q::template inverse<Width>(x, constants);
      team.sync();
    }
  }
  template <class Team = serial_team>
  KVC_HD static float fold_query(float* q, const float* constants, Team team = {}) {
    float constant = 0;
    if constexpr (has_rows && own_takes_team<Team>) {
      constant = Q::template fold_query<Width>(q, constants, team);
      team.sync();
    } else if constexpr (has_rows) {
      if (team.rank() == 0) constant = Q::template fold_query<Width>(q, constants);
      constant = team.broadcast(constant);
      team.sync();
    }
    return constant + inner::fold_query(q, constants + own, team);
  }
  template <class Team = serial_team>
  KVC_HD static void unfold_output(float* o, float mass, const float* constants, Team team = {}) {
    inner::unfold_output(o, mass, constants + own, team);
    if constexpr (has_rows && own_takes_team<Team>) {
      Q::template unfold_output<Width>(o, mass, constants, team);
    } else if constexpr (has_rows) {
      if (team.rank() == 0) Q::template unfold_output<Width>(o, mass, constants);
      team.sync();
    }
  }
  static void initialise(float* constants) {
    if constexpr (has_rows) Q::template initialise<Width>(constants);
    inner::initialise(constants + own);
  }
};

}  // namespace detail

template <class Stream>
struct transform {
  using dims_policy = typename Stream::dims_policy;
  using stack = detail::wrappers<typename Stream::quant_policy, Stream::width>;
  static constexpr int model_width = Stream::model_width;
  static constexpr int width = Stream::width;

  template <class Team>
  static constexpr bool dims_take_team = dims::detail::takes_team<dims_policy, model_width, Team>;
  /// Whether all threads of such a team take part in everything.
  template <class Team>
  static constexpr bool takes_team = dims_take_team<Team>&& stack::template take_team<Team>;
  /// Whether a stored row is the model's row with nothing but the wrappers applied.
  static constexpr bool dims_are_identity = requires { requires dims_policy::is_identity; };
  /// Whether it is the model's row.
  static constexpr bool is_identity = dims_are_identity && stack::is_identity;

  /// row: [model_width] -> stored: [width]
  template <class Team = serial_team>
  KVC_HD static void store(const float* row, float* stored, const float* constants, Team team = {}) {
    if constexpr (dims_take_team<Team>) {
      dims_policy::template compress<model_width>(row, stored, constants, team);
    } else {
      if (team.rank() == 0) dims_policy::template compress<model_width>(row, stored, constants);
      team.sync();
    }
    stack::forward(stored, constants + Stream::dims_floats, team);
  }

  /// The same of a row in its team's registers, where dims leaves rows as they are.
  template <class Team>
  static constexpr bool takes_shares = dims_are_identity&& stack::template take_shares<Team>;
  template <class Team>
  KVC_HD static void store_share(float* x, const float* constants, Team team) {
    stack::forward_share(x, constants + Stream::dims_floats, team);
  }

  /// The same in place, where dims leaves rows as they are.
  template <class Team>
  KVC_HD static void store_in_place(float* row, const float* constants, Team team) {
    static_assert(dims_are_identity);
    stack::forward(row, constants + Stream::dims_floats, team);
  }

  /// stored: [width], overwritten -> row: [model_width]. The inverse of store, as far as dims keeps the row.
  template <class Team = serial_team>
  KVC_HD static void restore(float* stored, float* row, const float* constants, Team team = {}) {
    stack::inverse(stored, constants + Stream::dims_floats, team);
    expand(stored, row, constants, team);
  }

  /// The same in place, where dims leaves rows as they are.
  template <class Team>
  KVC_HD static void restore_in_place(float* row, const float* constants, Team team) {
    static_assert(dims_are_identity);
    stack::inverse(row, constants + Stream::dims_floats, team);
  }

  /// query: [model_width] -> folded: [score_width]. Returns what is the same for all rows: score = <folded, row> + it.
  /// Deferred keys are scored after expansion, so their query stays as it is.
  template <class Team = serial_team>
  KVC_HD static float fold_query(const float* query, float* folded, const float* constants, Team team = {}) {
    if constexpr (Stream::is_deferred) {
      for (int i = team.rank(); i < model_width; i += team.size()) folded[i] = query[i];
      team.sync();
      return 0;
    } else {
      fold_dims(query, folded, constants, team);
      return stack::fold_query(folded, constants + Stream::dims_floats, team);
    }
  }

  /// Channel c of the model's row by a stored one: row[c] = <folded, stored> + what it returns, as all of it is affine.
  /// folded: [width]; unit: [model_width] of memory to work in.
  template <class Team>
  KVC_HD static float fold_channel(int channel, float* unit, float* folded, const float* constants, Team team) {
    for (int i = team.rank(); i < model_width; i += team.size()) unit[i] = i == channel ? 1.0f : 0.0f;
    team.sync();
    fold_dims(unit, folded, constants, team);
    return stack::fold_query(folded, constants + Stream::dims_floats, team);
  }

  /// sum: [width], a sum of stored rows with weights of total `mass`, overwritten -> output: [model_width].
  template <class Team = serial_team>
  KVC_HD static void unfold_output(float* sum, float mass, float* output, const float* constants, Team team = {}) {
    stack::unfold_output(sum, mass, constants + Stream::dims_floats, team);
    expand(sum, output, constants, team);
  }

  /// Constants that stand for no calibration.
  static void initialise(float* constants) {
    dims_policy::template initialise<model_width>(constants);
    stack::initialise(constants + Stream::dims_floats);
  }

 private:
  template <class Team>
  KVC_HD static void fold_dims(const float* query, float* folded, const float* constants, Team team) {
    if constexpr (dims_take_team<Team>) {
      dims_policy::template fold_query<model_width>(query, folded, constants, team);
    } else {
      if (team.rank() == 0) dims_policy::template fold_query<model_width>(query, folded, constants);
      team.sync();
    }
  }
  template <class Team>
  KVC_HD static void expand(const float* stored, float* row, const float* constants, Team team) {
    if constexpr (dims_take_team<Team>) {
      dims_policy::template expand<model_width>(stored, row, constants, team);
    } else {
      if (team.rank() == 0) dims_policy::template expand<model_width>(stored, row, constants);
      team.sync();
    }
  }
};

}  // namespace kvc::inline v0_1
