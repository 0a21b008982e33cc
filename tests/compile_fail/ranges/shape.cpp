// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expect: kvc: shape needs at least one layer \(or kvc::dynamic\)
// expect: kvc: shape needs at least one query head \(or kvc::dynamic\)
// expect: kvc: shape needs at least one KV head \(or kvc::dynamic\)
// expect: kvc: shape needs a positive even head dim, known at compile time
// expect: kvc: shape: query heads must be a multiple of KV heads
#include <kvc/core/shape.hpp>

#ifdef KVC_SHOULD_FAIL
template struct kvc::shape<0, 8, 4, 64>;
template struct kvc::shape<4, -2, 4, 64>;
template struct kvc::shape<4, 8, -4, 64>;
template struct kvc::shape<4, 8, 4, kvc::dynamic>;
template struct kvc::shape<4, 7, 2, 64>;
#else
template struct kvc::shape<1, 8, 4, 64>;
template struct kvc::shape<4, kvc::dynamic, 4, 64>;
template struct kvc::shape<4, 8, kvc::dynamic, 64>;
template struct kvc::shape<4, 8, 4, 64>;
template struct kvc::shape<4, 8, 2, 64>;
#endif
