// Tests of csrc/pickle: values of every kind, files of every kind, and that what is foreign to them is
// refused by name (meant for a build with DALI_DR_SANITIZE=ON).
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "pickle/container.h"
#include "pickle/error.h"
#include "pickle/json.h"
#include "pickle/opcodes.h"
#include "pickle/zip.h"
#include "tests/check.h"
#include "tests/make_pickle.h"

namespace dali_dr::pickle {
namespace {

using namespace testing::made;
using testing::Check;

/// What reads the file, in memory of its own so that an overrun is seen, and hands the tree on: what refuses
/// it, or "".
std::string Refusal(const Text& file, const std::function<void(const Tree&)>& then = {}) {
  const std::vector<uint8_t> own(file.begin(), file.end());
  Reader reader;
  Tree tree;
  try {
    ReadFile(own, &reader, &tree);
    if (then) then(tree);
  } catch (const PickleError& error) {
    return error.what();
  }
  return {};
}

void CheckRefused(const Text& file, const std::string& word, const std::string& what) {
  const std::string message = Refusal(file);
  Check(message.find(word) != std::string::npos, what + ": got \"" + message + "\"");
}

void CheckJson(const Text& file, const std::string& want, const std::string& what) {
  std::string json;
  const std::string message = Refusal(file, [&](const Tree& tree) { json = Json(tree); });
  Check(message.empty() && json == want, what + ": got " + json + " " + message);
}

void CheckBody(const Text& body, const std::string& want) { CheckJson(Whole(body), want, want); }

void TestNumbers() {
  CheckBody(None(), "null");
  CheckBody(True(), "true");
  CheckBody(False(), "false");
  for (const int64_t number : {0L, 1L, 255L, 256L, 65535L, 65536L, -1L, -129L, 2147483647L, -2147483648L,
                               2147483648L, INT64_MAX, INT64_MIN})
    CheckBody(Int(number), std::to_string(number));
  CheckBody(Text("\x8a\0", 2), "0");
  CheckBody("\x8a\1\xff", "-1");
  CheckBody(Text("\x8a\2\xff\0", 4), "255");
  CheckRefused(Whole(Text("\x8a\x09\1\1\1\1\1\1\1\1\1", 11)), "integer of 9 bytes", "an integer of 9 bytes");
  CheckBody(Float(0.5), "0.5");
  CheckBody(Float(-3), "-3.0");
  CheckBody(Float(1e300), "1e+300");
  CheckBody(Float(0.1), "0.1");
  CheckBody(Float(NAN), "NaN");
  CheckBody(Float(-INFINITY), "-Infinity");
  CheckBody(Float(INFINITY), "Infinity");
  std::vector<Text> many;  // more than are read at once, and up to the last bytes
  std::string want = "[";
  for (int i = 0; i < 200; ++i) {
    many.push_back(i % 3 ? Int(i * i) : Float(i));
    want += (i ? "," : "") + std::to_string(i % 3 ? i * i : i) + (i % 3 ? "" : ".0");
  }
  CheckBody(List(many), want + "]");
}

void TestTexts() {
  CheckBody(String("a\"\\\n\xc3\xa4"), "\"a\\\"\\\\\\u000a\xc3\xa4\"");
  CheckBody("\x8c\3abc", "\"abc\"");
  CheckBody("\x8d" + Little(uint64_t{2}) + "ab", "\"ab\"");
  const auto bytes = [](const Text& body, const std::string& want) {
    const std::string message = Refusal(Whole(body), [&](const Tree& tree) {
      Check(tree.root.kind == Kind::kBytes && tree.root.text() == want, "bytes " + want);
    });
    Check(message.empty(), "bytes: " + message);
  };
  bytes(Bytes("x\xff"), "x\xff");
  bytes("C\2xy", "xy");
  bytes("\x8e" + Little(uint64_t{2}) + "xy", "xy");
  const Text encode = Global("_codecs", "encode");
  bytes(Call(encode, {String("a\xc2\x80\xc3\xbf"), String("latin1")}), "a\x80\xff");
  CheckRefused(Whole(Call(encode, {String("\xc4\x80"), String("latin1")})), "not latin1", "no latin1");
  CheckRefused(Whole(Call(encode, {String("a\xc3"), String("latin1")})), "not latin1", "half a letter");
  CheckRefused(Whole(Call(encode, {String("a"), String("utf8")})), "neither NumPy nor torch",
               "another encoding");
  Text often;
  for (int i = 0; i < 30; ++i)
    often += Call(encode, {i ? Text("h\0", 2) : String(Text(900, 'a')) + Text("q\0", 2), String("latin1")});
  CheckRefused(Whole("(" + often + "t"), "decodes more text than it has", "one text many times");
  CheckRefused(Whole("X" + Little(uint32_t{9}) + "ab"), "cut off", "a text that is cut");
  CheckRefused(Whole("\x8d" + Little(~uint64_t{0}) + "ab"), "cut off", "a text of 2^64 bytes");
}

void TestContainers() {
  CheckBody(Tuple({}), "[]");
  CheckBody(")", "[]");
  CheckBody(Int(1) + "\x85", "[1]");
  CheckBody(Int(1) + Int(2) + "\x86", "[1,2]");
  CheckBody(Int(1) + Int(2) + Int(3) + "\x87", "[1,2,3]");
  CheckBody("]", "[]");
  CheckBody("]" + Int(1) + "a" + Int(2) + "a(" + Int(3) + Int(4) + "e", "[1,2,3,4]");
  CheckBody("}" + String("a") + Int(1) + "s(" + String("b") + Int(2) + Int(7) + Int(3) + "u",
            "{\"a\":1,\"b\":2,\"7\":3}");
  CheckBody(Call(Global("collections", "OrderedDict"), {}) + String("a") + Int(1) + "s", "{\"a\":1}");
  CheckRefused(Whole(Call(Global("collections", "OrderedDict"), {Int(1)})), "OrderedDict",
               "an OrderedDict of something");
  // A list grows while others do, and is one list wherever it is seen.
  CheckBody("]q\1(]q\2h\2(" + Int(1) + "eh\2(" + Int(2) + Int(3) + "eh\2" + Int(4) + "ae",
            "[[1,2,3,4],[1,2,3,4],[1,2,3,4],[1,2,3,4]]");
}

void TestMemo() {
  CheckBody("(" + Int(5) + "\x94h" + Text(1, 0) + "t", "[5,5]");
  CheckBody("(" + Int(5) + "q\3" + Int(6) + "r\4" + Text(3, 0) + "h\3j\4" + Text(3, 0) + "t", "[5,6,5,6]");
  CheckBody("(]\x94(" + Int(1) + "eh" + Text(1, 0) + "(" + Int(2) + "et", "[[1,2],[1,2]]");
  CheckRefused(Whole("h\1"), "never remembered", "a value that was never remembered");
  CheckRefused(Whole("(" + Int(5) + "q\3h\1t"), "never remembered", "a hole of the memo");
  CheckRefused(Whole(Int(5) + "r\xff\xff\xff\x7f"), "too short", "a place far behind");
  CheckRefused(Whole("\x94"), "there is none", "nothing to remember");
  const Text own = "]\x94h" + Text(1, 0) + "a";
  Check(Refusal(Whole(own)).empty(), "a list that holds itself can be read");
  const std::string message = Refusal(Whole(own), [](const Tree& tree) { Json(tree); });
  Check(message.find("deeper") != std::string::npos, "it cannot be written: " + message);
  Text laughs = "](" + Int(1) + "e\x94";  // each list holds the one before ten times
  for (int i = 0; i < 30; ++i) {
    laughs += "](";
    for (int j = 0; j < 10; ++j) laughs += "h" + Text(1, static_cast<char>(i));
    laughs += "e\x94";
  }
  const std::string longer = Refusal(Whole("(" + laughs + "t"), [](const Tree& tree) { Json(tree); });
  Check(longer.find("longer than") != std::string::npos, "a billion laughs: " + longer);
}

void TestDamage() {
  const std::vector<std::pair<Text, std::string>> cases{
      {"", "is empty"},
      {"abc", "begins with the byte 97"},
      {Whole(""), "stops with 0 values"},
      {Whole(Int(1) + Int(1)), "stops with 2 values"},
      {Whole("(" + Int(1)), "stops with"},
      {Whole("t"), "did not begin"},
      {Whole("e"), "did not begin"},
      {Whole("\x85"), "fewer values"},
      {Whole("(" + Int(1) + "\x86t"), "fewer values"},
      {Whole(Int(1) + "a"), "not there"},
      {Whole("a"), "there is none"},
      {Whole("s"), "not there"},
      {Whole("]" + Int(1) + Int(2) + "s"), "not there"},
      {Whole("}(" + Int(1) + "u"), "not there"},
      {Whole("R"), "there is none"},
      {Whole(Int(1) + ")R"), "calls 1"},
      {Whole(Global("numpy", "dtype") + Int(1) + "R"), "a call"},
      {Whole(Global("numpy", "ndarray") + ")R"), "calls numpy.ndarray"},
      {Whole(Int(1) + ")b"), "sets the state of 1"},
      {Whole("]" + Int(1) + "b"), "a state"},
      {Whole(Int(1) + Int(2) + "\x93"), "by 1 and 2"},
      {Whole("Q"), "BINPERSID"},
      {Whole(Int(1), 6), "protocol 6"},
      {Whole("\x95" + Little(uint64_t{99}) + Int(1)), "frame"},
      {Whole(Int(1)) + "x", "1 bytes follow"},
      {Whole("cnumpy"), "cut off"},
      {"\x80\x02(G\1\2", "cut off"},
      {"\x80\x02(K", "cut off"},
      {Whole("\xfe"), "byte 254"},
  };
  for (const auto& [file, word] : cases) CheckRefused(file, word, word);
}

void TestForeign() {
  for (const OpcodeName& opcode : kRefusedOpcodes) {
    if (opcode.code == 'i') continue;
    CheckRefused(Whole(Int(1) + Text(1, static_cast<char>(opcode.code)) + "os\nsystem\n"),
                 Text("opcode ") + opcode.name + " (byte 4)", opcode.name);
  }
  CheckRefused(Whole("(ios\nsystem\n"), "names os.system", "INST");
  CheckRefused(Whole(Global("os", "system")), "names os.system, which is never", "GLOBAL");
  CheckRefused(Whole(String("posix") + String("system") + "\x93"), "names posix.system", "STACK_GLOBAL");
  CheckRefused(Whole(Global("builtins", "eval")), "names builtins.eval", "eval");
  CheckRefused(Whole(Global("numpy", "dtype.__reduce__")), "names numpy.dtype.__reduce__", "a dotted name");
  CheckRefused(Whole(Global("torch", "load")), "names torch.load", "torch.load");
  CheckRefused(Whole(Global("torch._utils", "_rebuild_parameter")), "_rebuild_parameter", "a parameter");
  CheckRefused(Whole(Global("a\x1b", Text(300, 'b'))), "names a\\x1b.bbb", "an escape in a name");
}

void TestNumpy() {
  const auto check = [](const Text& name, const Text& bytes, const std::string& want) {
    CheckJson(Whole(Scalar(name, bytes)), want, name);
  };
  check("b1", "\1", "true");
  check("i1", "\xff", "-1");
  check("i2", Little(int16_t{-300}), "-300");
  check("i4", Little(int32_t{-70000}), "-70000");
  check("i8", Little(INT64_MIN), std::to_string(INT64_MIN));
  check("u1", "\xff", "255");
  check("u2", Little(uint16_t{65535}), "65535");
  check("u4", Little(~uint32_t{0}), "4294967295");
  check("u8", Little(uint64_t{7}), "7");
  check("f2", Little(uint16_t{0x3e00}), "1.5");
  check("f2", Little(uint16_t{0x8001}), "-5.960464477539063e-08");
  check("f2", Little(uint16_t{0x7c00}), "Infinity");
  check("f2", Little(uint16_t{0x7e00}), "NaN");
  check("f4", Little(0.25f), "0.25");
  check("f8", Little(0.1), "0.1");
  CheckRefused(Whole(Scalar("u8", Little(~uint64_t{0}))), "without sign", "an integer above int64");
  CheckRefused(Whole(Scalar("i4", "\1")), "a NumPy number", "a number of too few bytes");
  CheckRefused(Whole(Dtype("f4", ">")), "big-endian", "big-endian");
  CheckRefused(Whole(Dtype("f4", "|")), "a NumPy type", "no byte order for four bytes");
  Check(Refusal(Whole(Dtype("b1", "|"))).empty() && Refusal(Whole(Dtype("f8", "="))).empty(), "byte orders");
  for (const char* name : {"O", "O8", "V4", "U3", "f1", "f16", "b2", "c8", "M8", "i3"})
    CheckRefused(Whole(Dtype(name)), name, name);
  const Text dtype = Global("numpy", "dtype");
  CheckRefused(Whole(Call(dtype, {})), "a NumPy type", "no type");
  CheckRefused(Whole(Call(dtype, {String("f4"), Int(2)})), "a NumPy type", "an odd flag");
  CheckRefused(Whole(Dtype("f4") + Tuple({Int(3)}) + "b"), "a NumPy type", "a type that is built twice");
  const Text fields = Tuple({Int(3), String("<"), None(), Tuple({}), None(), Int(-1), Int(-1), Int(0)});
  CheckRefused(Whole(Call(dtype, {String("f4")}) + fields + "b"), "a NumPy type", "a type with fields");
  const Text odd = Tuple({Int(3), String("<"), None(), None(), None(), Int(-1), None(), Int(0)});
  CheckRefused(Whole(Call(dtype, {String("f4")}) + odd + "b"), "a NumPy type", "a type with an odd state");
  Text many;
  for (size_t i = 0; i <= kMostDtypes; ++i) many += Call(dtype, {String("f4")});
  CheckRefused(Whole(List({many})), "NumPy types", "too many types");
}

void CheckArray(const Text& file, const std::vector<double>& want, uint64_t rows, uint64_t columns) {
  const std::string message = Refusal(file, [&](const Tree& tree) {
    Check(tree.root.kind == Kind::kArray, "it is an array");
    const Array& array = tree.ArrayOf(tree.root);
    Check(array.dims == 2 && array.shape[0] == rows && array.shape[1] == columns, tree.Describe(tree.root));
    for (uint64_t i = 0; i < rows * columns; ++i)
      Check(tree.At(array, i / columns, i % columns) == want[i], "element " + std::to_string(i));
  });
  Check(message.empty(), "an array: " + message);
}

void TestArrays() {
  const Text six = testing::made::Array<float>({1, 2, 3, 4, 5, 6});
  CheckArray(Whole(NumpyArray("f4", {2, 3}, six)), {1, 2, 3, 4, 5, 6}, 2, 3);
  CheckArray(Whole(NumpyArray("f4", {2, 3}, six, true)), {1, 3, 5, 2, 4, 6}, 2, 3);
  CheckArray(Whole(NumpyArray("i2", {1, 2}, testing::made::Array<int16_t>({-7, 9}))), {-7, 9}, 1, 2);
  CheckArray(Whole(NumpyArray("u1", {1, 2}, "\1\xff")), {1, 255}, 1, 2);
  CheckArray(Whole(NumpyArray("i1", {1, 2}, "\1\xff")), {1, -1}, 1, 2);
  CheckArray(Whole(NumpyArray("u2", {1, 1}, Little(uint16_t{65535}))), {65535}, 1, 1);
  CheckArray(Whole(NumpyArray("i4", {1, 1}, Little(int32_t{-5}))), {-5}, 1, 1);
  CheckArray(Whole(NumpyArray("u4", {1, 1}, Little(uint32_t{5}))), {5}, 1, 1);
  CheckArray(Whole(NumpyArray("i8", {1, 1}, Little(int64_t{-5}))), {-5}, 1, 1);
  CheckArray(Whole(NumpyArray("u8", {1, 1}, Little(uint64_t{5}))), {5}, 1, 1);
  CheckArray(Whole(NumpyArray("f8", {1, 1}, Little(0.1))), {0.1}, 1, 1);
  CheckArray(Whole(NumpyArray("b1", {1, 2}, Text("\0\1", 2))), {0, 1}, 1, 2);
  CheckArray(Whole(NumpyArray("f4", {0, 3}, "")), {}, 0, 3);
  const Text good = NumpyArray("f4", {2, 3}, six);
  const std::vector<std::pair<Text, std::string>> cases{
      {NumpyArray("f4", {2, 4}, six), "an array f4 of shape (2, 4) of 24 bytes"},
      {NumpyArray("f4", {2, 3}, six + "x"), "of 25 bytes"},
      {NumpyArray("f4", {0, 3}, six), "of 24 bytes"},
      {NumpyArray("f4", {INT64_MAX, INT64_MAX}, six), "of 24 bytes"},
      {NumpyArray("f4", {-1, 3}, six), "neither NumPy nor torch"},
      {NumpyArray("f4", std::vector<int64_t>(9, 1), six), "9 dimensions"},
      {good + Tuple({Int(1), Shape({6}), Dtype("f4"), False(), Bytes(six)}) + "b", "neither NumPy nor torch"},
      {Call(Global("numpy.core.multiarray", "_reconstruct"),
            {Global("numpy", "dtype"), Tuple({Int(0)}), Bytes("b")}),
       "neither NumPy nor torch"},
      {Call(Global("numpy.core.multiarray", "_reconstruct"),
            {Global("numpy", "ndarray"), Tuple({Int(1)}), Bytes("b")}),
       "neither NumPy nor torch"},
  };
  for (const auto& [body, word] : cases) CheckRefused(Whole(body), word, word);
  Text many;
  for (size_t i = 0; i <= kMostArrays; ++i) many += good;
  CheckRefused(Whole(List({many})), "more than 256 arrays", "too many arrays");
  const std::string message = Refusal(Whole(List({good})), [](const Tree& tree) { Json(tree); });
  Check(message.find("an array f4 of shape (2, 3)") != std::string::npos, "no arrays in JSON: " + message);
}

void TestTensors() {
  const Text six = testing::made::Array<float>({1, 2, 3, 4, 5, 6});
  const Text half = testing::made::Array<uint16_t>({0x3c00, 0x4000});
  const Text storage = TorchStorage("FloatStorage", "0", 6),
             older = TorchStorage("FloatStorage", "7", 6, true);
  for (const bool zip64 : {false, true}) {
    const ZipForm form{.zip64 = zip64};
    const auto file = [&](const Text& tensor) { return Archive(Whole(tensor), {{"0", six}}, form); };
    CheckArray(file(Tensor(storage, 0, {2, 3}, {3, 1})), {1, 2, 3, 4, 5, 6}, 2, 3);
    CheckArray(file(Tensor(storage, 0, {3, 2}, {1, 3})), {1, 4, 2, 5, 3, 6}, 3, 2);
    CheckArray(file(Tensor(storage, 4, {1, 2}, {9, 1})), {5, 6}, 1, 2);
    CheckArray(file(Tensor(storage, 0, {2, 0}, {1, 1})), {}, 2, 0);
    CheckArray(
        Archive(Whole(Tensor(TorchStorage("HalfStorage", "0", 2), 0, {1, 2}, {2, 1})), {{"0", half}}, form),
        {1, 2}, 1, 2);
  }
  CheckArray(Older(Whole(Tensor(older, 0, {2, 3}, {3, 1})), {{"7", 6, six}}), {1, 2, 3, 4, 5, 6}, 2, 3);
  const auto refused = [&](const Text& tensor, const std::string& word) {
    CheckRefused(Archive(Whole(tensor), {{"0", six}}), word, word);
  };
  refused(Tensor(storage, 0, {2, 4}, {3, 1}), "more elements than its storage of 6");
  refused(Tensor(storage, 1, {2, 3}, {3, 1}), "more elements than its storage");
  refused(Tensor(storage, 0, {2, 3}, {4, 1}), "more elements than its storage");
  refused(Tensor(storage, 0, {2, 3}, {INT64_MAX, 1}), "more elements than its storage");
  refused(Tensor(storage, INT64_MAX, {2, 3}, {3, 1}), "more elements than its storage");
  refused(Tensor(storage, 6, {}, {}), "more elements than its storage");
  refused(Tensor(storage, 0, {1000}, {0}), "more elements than its storage");
  refused(Tensor(storage, 0, {INT64_MAX, INT64_MAX, 4}, {0, 0, 0}), "more elements than its storage");
  refused(Tensor(storage, 0, {2, 3}, {1}), "a torch tensor");
  refused(Tensor(storage, -1, {2, 3}, {3, 1}), "a torch tensor");
  refused(Tensor(Int(1), 0, {2, 3}, {3, 1}), "a torch tensor");
  refused(Tensor(TorchStorage("FloatStorage", "0", 7), 0, {1}, {1}),
          "has 24 bytes, where its 7 elements take 28");
  refused(Tensor(TorchStorage("FloatStorage", "1", 6), 0, {1}, {1}), "no member for the tensor's storage 1");
  refused(TorchStorage("FloatStorage", "0", INT64_MAX), "too large");
  refused(TorchStorage("BFloat16Storage", "0", 6), "names torch.BFloat16Storage");
  refused(Int(1) + "Q", "a torch storage");
  refused(Tuple({Int(1)}) + "Q", "a torch storage");
  const Text twice =
      Tuple({Tensor(storage, 0, {6}, {1}), Tensor(TorchStorage("FloatStorage", "0", 6), 0, {6}, {1})});
  Check(Refusal(Archive(Whole(twice), {{"0", six}})).empty(), "two tensors of one storage");
}

void TestOlder() {
  const Text six = testing::made::Array<float>({1, 2, 3, 4, 5, 6});
  const Text tensor = Whole(Tensor(TorchStorage("FloatStorage", "7", 6, true), 0, {2, 3}, {3, 1}));
  const Text good = Older(tensor, {{"7", 6, six}});
  for (size_t length = 0; length < good.size(); ++length)
    if (Refusal(good.substr(0, length)).empty())
      Check(false, "torch's older format cut to " + std::to_string(length) + " bytes is accepted");
  CheckRefused(good + "x", "1 bytes follow", "more behind it");
  CheckRefused(Older(tensor, {{"7", 6, six}}, 1002), "version 1002", "another version");
  CheckRefused(Older(tensor, {{"7", 6, six}}, 1001, false), "byte order", "big-endian");
  CheckRefused(Older(tensor, {{"7", 5, six}}), "another size", "a storage of another size");
  CheckRefused(Older(tensor, {{"8", 6, six}}), "nothing uses", "another storage");
  CheckRefused(Older(tensor, {}), "storage is missing", "no storage");
  const Text start = good.substr(0, good.size() - six.size() - 8 - Whole(List({String("7")})).size());
  CheckRefused(start + Whole(Int(1)), "no list of storages", "no list");
  CheckRefused(start + Whole(List({Int(1)})), "called 1", "a key that is none");
}

void TestZip() {
  const Text pickle = Whole(List({Int(1), String("a")}));
  const Text good = Archive(pickle);
  CheckJson(good, "[1,\"a\"]", "an archive");
  CheckJson(Zip({{"5.pth/data.pkl", pickle}}, {.zip64 = false}), "[1,\"a\"]", "an archive of another name");
  for (size_t length = 0; length < good.size(); ++length)
    if (Refusal(good.substr(0, length)).empty())
      Check(false, "an archive cut to " + std::to_string(length) + " bytes is accepted");
  for (const bool zip64 : {false, true}) {
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .method = 8}), "is compressed", "deflated");
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .flags = 1}), "is encrypted", "encrypted");
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .shift = 1}), "cannot be read", "wrong places");
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .shift = 1u << 30}), "outside of itself",
                 "places outside");
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .longer = 40}), "over each other",
                 "members that overlap");
    CheckRefused(Archive(pickle, {}, {.zip64 = zip64, .longer = 1u << 30}), "outside of itself",
                 "sizes outside");
  }
  CheckRefused(Archive(pickle, {}, {.shift = ~uint64_t{0} - 20}), "outside of itself", "a place near 2^64");
  CheckRefused(Archive(pickle, {}, {.longer = ~uint64_t{0} - 20}), "outside of itself", "a size near 2^64");
  CheckRefused(Zip({{"a/b", pickle}}), "no data.pkl", "no data.pkl");
  CheckRefused(Zip({{"a/data.pkl", pickle}, {"b/data.pkl", pickle}}), "several data.pkl", "two of them");
  CheckRefused(Zip({{"a/data.pkl", pickle}, {"a/data.pkl", pickle}}), "twice", "a member twice");
  CheckRefused(Zip({{"a/data.pkl", pickle}, {"a/byteorder", "big"}}), "byte order", "big-endian");
  CheckRefused(Archive(pickle + "x"), "1 bytes follow", "more behind the pickle");
  std::vector<std::pair<Text, Text>> many;
  for (size_t i = 0; i <= kMostMembers; ++i) many.emplace_back("a/" + std::to_string(i), "");
  CheckRefused(Zip(many), "257 members", "too many members");
  Text damaged = good;
  damaged[good.find(pickle) + 5] ^= 1;
  CheckRefused(damaged, "checksum", "a wrong byte");
  CheckRefused("PK" + Text(100, 'x'), "has no end", "no archive");
  CheckRefused("PK", "cut off", "too short an archive");
  const auto changed = [&](const Text& mark, size_t at, char to) {
    Text file = good;
    file[good.rfind(mark) + at] = to;
    return file;
  };
  CheckRefused(changed("PK\6\6", 0, 'x'), "ZIP64 end", "no ZIP64 end");
  CheckRefused(changed("PK\6\7", 15, 1), "outside of itself", "a ZIP64 end elsewhere");
  CheckRefused(changed("PK\6\6", 32, 1), "two ends differ", "another number of members");
  CheckRefused(changed("PK\5\6", 10, 1), "two ends differ", "another number at the end");
  CheckRefused(changed("PK\1\2", 0, 'x'), "directory", "no entry");
  CheckRefused(changed("PK\1\2", 28, 99), "directory is cut off", "too long a name");
  CheckRefused(changed("PK\1\2", 32, 1), "directory", "a comment that is not there");
  CheckRefused(changed("PK\3\4", 30, 'x'), "not what its directory says", "another name");
  const size_t extra = good.rfind("PK\1\2") + 46 + Text("archive/byteorder").size() + 5;
  for (const auto& [at, to] : {std::pair{0, 2}, {2, 8}, {2, 99}}) {
    Text file = good;
    file[extra + static_cast<size_t>(at)] = static_cast<char>(to);
    CheckRefused(file, "cannot be read", "a ZIP64 part that is none");
  }
}

/// Files with any bytes changed are refused or read, and nothing else happens.
void TestMutations() {
  const Text six = testing::made::Array<float>({1, 2, 3, 4, 5, 6});
  const Text value =
      List({NumpyArray("f4", {2, 3}, six), Dict({{"a", Tuple({Int(300), Float(0.5), None()})}}),
            Scalar("i8", Little(int64_t{5})), "]\x94h" + Text(1, 0) + "a"});
  const Text tensor = Tensor(TorchStorage("FloatStorage", "0", 6, true), 0, {2, 3}, {3, 1});
  std::mt19937 random(1);
  for (const Text& good : {Whole(value), Archive(Whole(value)), Older(Whole(tensor), {{"0", 6, six}}),
                           Archive(Whole(tensor), {{"0", six}})}) {
    Check(Refusal(good).empty(), "what is mutated is good: " + Refusal(good));
    for (int i = 0; i < 4000; ++i) {
      Text file = good;
      for (uint32_t changes = 1 + random() % 3; changes > 0; --changes)
        file[random() % file.size()] =
            static_cast<char>(random() % 2 ? random() : "(te]ub\x86R\x94h"[random() % 10]);
      Refusal(file, [](const Tree& tree) { Json(tree); });
    }
  }
}

void TestChecksum() {
  std::mt19937 random(1);
  for (size_t size = 0; size < 70; ++size) {
    Text text;
    while (text.size() < size) text += static_cast<char>(random());
    Check(Crc32({reinterpret_cast<const uint8_t*>(text.data()), size}) == Checksum(text), "a checksum");
  }
  Check(Checksum("123456789") == 0xcbf43926, "the checksum of the standard");
}

}  // namespace
}  // namespace dali_dr::pickle

int main() {
  using namespace dali_dr::pickle;
  TestNumbers();
  TestTexts();
  TestContainers();
  TestMemo();
  TestDamage();
  TestForeign();
  TestNumpy();
  TestArrays();
  TestTensors();
  TestOlder();
  TestZip();
  TestMutations();
  TestChecksum();
  return dali_dr::testing::Verdict("pickle");
}
