// See entropy.h.
#include "jpeg/entropy.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

namespace dali_dr::jpeg {
namespace {

// The beginning of libjpeg's struct jpeg_entropy_decoder.
struct EntropyDecoder {
  void (*start_pass)(j_decompress_ptr);
  DecodeMcu decode_mcu;
};

bool SetTable(const JHUFF_TBL* table, bool is_dc, int number, Scan* scan) {
  if (table == nullptr || number < 0 || number >= NUM_HUFF_TBLS) return false;
  Codes codes{};
  std::copy(table->bits, table->bits + 17, codes.counts.begin());
  std::copy(table->huffval, table->huffval + 256, codes.symbols.begin());
  codes.counts[0] = 0;
  return scan->SetTable(is_dc, static_cast<size_t>(number), codes);
}

// What the trial below counts and shows.
struct Trial {
  Errors errors;
  jpeg_compress_struct out{};
  jpeg_decompress_struct in{};
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  int mcus = 0;
  std::array<JSAMPLE, 3 * 32> row{};

  ~Trial() {
    jpeg_destroy_compress(&out);
    jpeg_destroy_decompress(&in);
    std::free(bytes);
  }
};

// A value that no image has by chance: every MCU is as bright as its number.
boolean DecodeTrial(j_decompress_ptr info, JBLOCKROW* blocks) {
  auto* trial = static_cast<Trial*>(info->client_data);
  ++trial->mcus;
  for (int i = 0; i < info->blocks_in_MCU; ++i) (*blocks[i])[0] = static_cast<JCOEF>(8 * trial->mcus);
  return TRUE;
}

// A grey image of 32 x 8 pixels, that is four MCUs with a quantisation of 1, written and shown with others.
bool Try(Trial* trial) {
  if (setjmp(trial->errors.back)) return false;
  trial->out.err = trial->in.err = &trial->errors;
  jpeg_create_compress(&trial->out);
  jpeg_create_decompress(&trial->in);
  jpeg_mem_dest(&trial->out, &trial->bytes, &trial->size);
  trial->out.image_width = 32;
  trial->out.image_height = 8;
  trial->out.input_components = 1;
  trial->out.in_color_space = JCS_GRAYSCALE;
  jpeg_set_defaults(&trial->out);
  jpeg_set_quality(&trial->out, 100, TRUE);
  jpeg_start_compress(&trial->out, TRUE);
  JSAMPROW row = trial->row.data();
  for (int y = 0; y < 8; ++y) jpeg_write_scanlines(&trial->out, &row, 1);
  jpeg_finish_compress(&trial->out);
  jpeg_mem_src(&trial->in, trial->bytes, trial->size);
  jpeg_read_header(&trial->in, TRUE);
  trial->in.client_data = trial;
  jpeg_start_decompress(&trial->in);
  Install(&trial->in, DecodeTrial);
  jpeg_read_scanlines(&trial->in, &row, 1);
  for (int x = 0; x < 32; ++x)
    if (trial->row[static_cast<size_t>(x)] != 128 + x / 8 + 1) return false;
  return trial->mcus == 4;
}

}  // namespace

void Install(jpeg_decompress_struct* info, DecodeMcu decode) {
  reinterpret_cast<EntropyDecoder*>(info->entropy)->decode_mcu = decode;
}

bool InstallWorks() {
  static const bool works = [] {
    Trial trial;
    return Try(&trial);
  }();
  return works;
}

bool Describe(const jpeg_decompress_struct& info, Scan* scan, McuLayout* layout) {
  if (info.blocks_in_MCU < 1 || info.blocks_in_MCU > static_cast<int>(layout->component.size())) return false;
  layout->blocks = info.blocks_in_MCU;
  for (int i = 0; i < info.blocks_in_MCU; ++i)
    layout->component[static_cast<size_t>(i)] = static_cast<uint8_t>(info.MCU_membership[i]);
  for (int i = 0; i < info.comps_in_scan; ++i) {
    const jpeg_component_info& component = *info.cur_comp_info[i];
    const int dc = component.dc_tbl_no, ac = component.ac_tbl_no;
    if (dc < 0 || dc >= NUM_HUFF_TBLS || ac < 0 || ac >= NUM_HUFF_TBLS) return false;
    if (!SetTable(info.dc_huff_tbl_ptrs[dc], true, dc, scan) ||
        !SetTable(info.ac_huff_tbl_ptrs[ac], false, ac, scan))
      return false;
    layout->dc_table[static_cast<size_t>(i)] = static_cast<uint8_t>(dc);
    layout->ac_table[static_cast<size_t>(i)] = static_cast<uint8_t>(ac);
  }
  return true;
}

}  // namespace dali_dr::jpeg
