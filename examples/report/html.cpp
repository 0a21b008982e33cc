// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "html.hpp"

#include <string_view>

#include "page_files.hpp"

namespace report {
namespace {

void replace_once(std::string& in, std::string_view what, std::string_view with) {
  const std::size_t at = in.find(what);
  if (at != std::string::npos) in.replace(at, what.size(), with);
}

/// JSON may have "</script>" in a string. A "<" stands only in strings, where \u003c is the same.
std::string within_script(const std::string& json) {
  std::string out;
  for (const char c : json) out += c == '<' ? std::string_view("\\u003c") : std::string_view(&c, 1);
  return out;
}

}  // namespace

std::string to_html(const std::string& json) {
  std::string out(page_html);
  replace_once(out, "/*style*/", page_css);
  replace_once(out, "/*script*/", std::string(plots_js) + page_js);
  replace_once(out, "/*data*/", within_script(json));
  return out;
}

}  // namespace report
