// See library.h. Nothing of libjpeg's own jerror.c is used: it prints and exits, and keeps its static library
// from being linked into a plugin.
#include "jpeg/library.h"

// Twice: first the codes, then the texts.
#include <jerror.h>

namespace dali_dr::jpeg {
namespace {

#define JCOPYRIGHT_SHORT ""  // of messages that are no errors
#define JVERSION ""
#define JMESSAGE(code, text) text,
constexpr const char* kTexts[] = {
#include <jerror.h>
};
#undef JMESSAGE
constexpr int kNumTexts = sizeof(kTexts) / sizeof(*kTexts);

[[noreturn]] void Exit(j_common_ptr info) { std::longjmp(static_cast<Errors*>(info->err)->back, 1); }

void CountWarning(j_common_ptr info, int level) {
  if (level >= 0) return;
  ++info->err->num_warnings;
  if (info->err->msg_code == JWRN_JPEG_EOF) static_cast<Errors*>(info->err)->cut_off = true;
}

void PrintNothing(j_common_ptr) {}

void Format(j_common_ptr info, char* out) {
  std::snprintf(out, JMSG_LENGTH_MAX, "code %d", info->err->msg_code);
}

void Reset(j_common_ptr info) {
  info->err->num_warnings = 0;
  static_cast<Errors*>(info->err)->cut_off = false;
  info->err->msg_code = 0;
}

}  // namespace

Errors::Errors() : jpeg_error_mgr{} {
  error_exit = Exit;
  emit_message = CountWarning;
  output_message = PrintNothing;
  format_message = Format;
  reset_error_mgr = Reset;
}

std::string Errors::Text() {
  char text[JMSG_LENGTH_MAX];
  if (msg_code < 0 || msg_code >= kNumTexts) return "code " + std::to_string(msg_code);
  const char* const format = kTexts[msg_code];
  bool is_text = false;  // as libjpeg's format_message tells
  for (const char* p = format; *p; ++p) is_text |= p[0] == '%' && p[1] == 's';
  if (is_text) {
    std::snprintf(text, sizeof text, format, msg_parm.s);
  } else {
    const int* const i = msg_parm.i;
    std::snprintf(text, sizeof text, format, i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7]);
  }
  return text;
}

}  // namespace dali_dr::jpeg
