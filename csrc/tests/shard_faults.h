// What shards refuse, for their tests.
#pragma once

#include <functional>
#include <string>

#include "check.h"
#include "shards/error.h"

namespace dali_dr::testing {

/// The fault of the ShardError that `body` throws; without a message if it throws none.
inline Fault FaultOf(const std::function<void()>& body) {
  try {
    body();
  } catch (const shards::ShardError& error) {
    return error.fault();
  }
  return {};
}

inline Fault CheckRefused(const std::function<void()>& body, const std::string& word,
                          const std::string& what) {
  Fault fault = FaultOf(body);
  Check(fault.message.find(word) != std::string::npos,
        what + ": want an error about \"" + word + "\", got \"" + fault.message + "\"");
  return fault;
}

}  // namespace dali_dr::testing
