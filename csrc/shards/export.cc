// What dali_dr/loader/supply.py calls through ctypes: shards.h as a C function.
#include "shards/shards.h"

extern "C" {

/// ShardSet::ForgetFile.
__attribute__((visibility("default"))) void dali_dr_forget_shard(const char* index_path, uint32_t number) {
  dali_dr::shards::ShardSet::ForgetFile(index_path, number);
}
}
