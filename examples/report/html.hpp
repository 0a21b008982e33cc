// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <string>

namespace report {

/// One page that needs nothing else: report.json's text with the style and the script that show it.
std::string to_html(const std::string& json);

}  // namespace report
