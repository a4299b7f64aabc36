// Names of a pickle's opcodes, as Python's pickletools has them: for messages.
#ifndef DALI_DR_CSRC_PICKLE_OPCODES_H_
#define DALI_DR_CSRC_PICKLE_OPCODES_H_

#include <cstdint>

namespace dali_dr::pickle {

struct OpcodeName {
  uint8_t code;
  const char* name;
};

/// Those that no file of ours has.
inline constexpr OpcodeName kRefusedOpcodes[] = {
    {'0', "POP"},
    {'1', "POP_MARK"},
    {'2', "DUP"},
    {'F', "FLOAT"},
    {'I', "INT"},
    {'L', "LONG"},
    {'P', "PERSID"},
    {'S', "STRING"},
    {'T', "BINSTRING"},
    {'U', "SHORT_BINSTRING"},
    {'V', "UNICODE"},
    {'d', "DICT"},
    {'g', "GET"},
    {'i', "INST"},
    {'l', "LIST"},
    {'o', "OBJ"},
    {'p', "PUT"},
    {0x81, "NEWOBJ"},
    {0x82, "EXT1"},
    {0x83, "EXT2"},
    {0x84, "EXT4"},
    {0x8b, "LONG4"},
    {0x8f, "EMPTY_SET"},
    {0x90, "ADDITEMS"},
    {0x91, "FROZENSET"},
    {0x92, "NEWOBJ_EX"},
    {0x96, "BYTEARRAY8"},
    {0x97, "NEXT_BUFFER"},
    {0x98, "READONLY_BUFFER"},
};

}  // namespace dali_dr::pickle

#endif  // DALI_DR_CSRC_PICKLE_OPCODES_H_
