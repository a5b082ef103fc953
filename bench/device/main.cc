// t2r-bench-gpu: what bench/gpu runs on a device. Needs cmake and the CUDA toolkit only.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "bench/device/checks.h"
#include "bench/device/measure.h"

namespace t2r::bench {
namespace {

constexpr char kUsage[] =
    "usage: t2r-bench-gpu check [small]\n"
    "       t2r-bench-gpu peaks ELEMENTS\n"
    "       t2r-bench-gpu decode SHAPE FEATURES SESSIONS,... POSITIONS,... SECONDS PEAKS [fast]\n"
    "       t2r-bench-gpu prefill SHAPE FEATURES TOKENS,... CHUNK SECONDS PEAKS\n"
    "       t2r-bench-gpu capacity SHAPE FEATURES POSITIONS,...\n"
    "fast: without batch invariance. FEATURES 0: softmax attention. PEAKS: BANDWIDTH RATE, as "
    "peaks prints them. Speeds and sizes\n"
    "are printed as a JSON object a line.\n";

class Arguments {
 public:
  Arguments(int argc, char** argv) : values_(argv + 1, argv + argc) {}

  bool Is(const char* command, size_t least) const {
    return !values_.empty() && values_[0] == command && values_.size() > least;
  }
  const std::string& Text(size_t i) const { return values_[i]; }
  double Number(size_t i) const { return std::strtod(values_[i].c_str(), nullptr); }
  int64_t Integer(size_t i) const { return std::strtoll(values_[i].c_str(), nullptr, 10); }
  std::vector<int64_t> Integers(size_t i) const {
    std::vector<int64_t> numbers;
    for (const char* at = values_[i].c_str(); *at != '\0';) {
      char* end = nullptr;
      numbers.push_back(std::strtoll(at, &end, 10));
      if (end == at) throw ModelError("'" + values_[i] + "' is no list of numbers");
      at = *end == ',' ? end + 1 : end;
    }
    return numbers;
  }
  const Shape& ShapeOf(size_t i) const {
    const Shape* shape = FindShape(values_[i]);
    if (shape == nullptr || shape->gpt2()) {
      throw ModelError("there is no Llama shape \"" + values_[i] + "\"");
    }
    return *shape;
  }
  DevicePeaks Peaks(size_t i) const {
    DevicePeaks peaks;
    peaks.copy_bytes_per_s = Number(i);
    peaks.matrix_flops_per_s = Number(i + 1);
    return peaks;
  }

 private:
  std::vector<std::string> values_;
};

void PrintPeaks(const Arguments& arguments) {
  cuda::CudaBackend backend(true);
  const MemoryInfo memory = backend.Memory();
  const DevicePeaks peaks = MeasurePeaks(backend, arguments.Integer(1));
  std::printf(
      "{\"device\": \"%s\", \"total_bytes\": %lld, \"free_bytes\": %lld, "
      "\"copy_bytes_per_s\": %.6g, \"matrix_flops_per_s\": %.6g, \"launch_s\": %.4g}\n",
      backend.Describe().c_str(), static_cast<long long>(memory.total_bytes),
      static_cast<long long>(memory.free_bytes), peaks.copy_bytes_per_s, peaks.matrix_flops_per_s,
      peaks.launch_s);
}

void PrintDecode(const Arguments& arguments) {
  const std::vector<int64_t> sessions = arguments.Integers(3);
  const std::vector<int64_t> positions = arguments.Integers(4);
  const DevicePeaks peaks = arguments.Peaks(6);
  const auto features = static_cast<int>(arguments.Integer(2));
  const auto most = static_cast<int>(*std::max_element(sessions.begin(), sessions.end()));
  const int64_t last = *std::max_element(positions.begin(), positions.end());
  const bool fast = arguments.Is("decode", 8) && arguments.Text(8) == "fast";
  const DeviceModel model =
      MakeDeviceModel(arguments.ShapeOf(1), features, most, 1, last + 1, !fast);
  for (const int64_t position : positions) {
    for (const int64_t asked : sessions) {
      const auto count = static_cast<int>(asked);
      if (count > model.memory.slots) {
        std::printf("{\"sessions\": %d, \"position\": %lld, \"fit\": %d}\n", count,
                    static_cast<long long>(position), model.memory.slots);
        continue;
      }
      const Timing timing = TimeDecode(*model.executor, count, position, arguments.Number(5));
      std::printf(
          "{\"sessions\": %d, \"position\": %lld, \"step_s\": %.6g, \"steps\": %d, "
          "\"floor_s\": %.6g, \"bytes_s\": %.6g, \"kernels\": %lld}\n",
          count, static_cast<long long>(position), timing.seconds, timing.steps,
          DecodeFloor(model.config, peaks, count, position),
          BytesOnly(model.config, peaks, count, position),
          static_cast<long long>(model.backend->recorded_kernels()));
      std::fflush(stdout);
    }
  }
}

void PrintPrefill(const Arguments& arguments) {
  const auto features = static_cast<int>(arguments.Integer(2));
  const std::vector<int64_t> lengths = arguments.Integers(3);
  const int64_t chunk = arguments.Integer(4);
  const int64_t last = *std::max_element(lengths.begin(), lengths.end());
  const DeviceModel model = MakeDeviceModel(arguments.ShapeOf(1), features, 1, chunk, last);
  for (const int64_t tokens : lengths) {
    const Timing timing = TimePrefill(*model.executor, tokens, chunk, arguments.Number(5));
    const double flops = PrefillFlops(model.config, tokens);
    std::printf(
        "{\"tokens\": %lld, \"chunk\": %lld, \"seconds\": %.6g, \"flops_per_s\": %.6g, "
        "\"share\": %.4g}\n",
        static_cast<long long>(tokens), static_cast<long long>(chunk), timing.seconds,
        flops / timing.seconds, flops / timing.seconds / arguments.Peaks(6).matrix_flops_per_s);
    std::fflush(stdout);
  }
}

// Sessions that the device holds: what is free after the weights and a step of kMaxDecodeRows, but
// the plan's reserve, over a session's bytes.
void PrintCapacity(const Arguments& arguments) {
  const Shape& shape = arguments.ShapeOf(1);
  const auto features = static_cast<int>(arguments.Integer(2));
  const ModelConfig config = ConfigOf(shape, features);
  for (const int64_t positions : arguments.Integers(3)) {
    const DeviceModel model = MakeDeviceModel(shape, features, 1, 1, positions);
    const int64_t bytes =
        StatePool::SlotBytes(StateShapeOf(config)) +
        KvCache::PagesFor(positions) * KvShapeOf(config, DType::kBFloat16).page_bytes();
    const int64_t workspace =
        kMaxDecodeRows * model.memory.workspace_bytes / model.memory.max_step_tokens;
    const int64_t room =
        model.after_weights.free_bytes - DeviceReserve(model.memory.total_bytes) - workspace;
    std::printf(
        "{\"positions\": %lld, \"weight_bytes\": %lld, \"session_bytes\": %lld, \"fit\": %lld}\n",
        static_cast<long long>(positions), static_cast<long long>(model.memory.weight_bytes),
        static_cast<long long>(bytes), static_cast<long long>(std::max<int64_t>(room, 0) / bytes));
    std::fflush(stdout);
  }
}

int Run(const Arguments& arguments) {
  if (arguments.Is("check", 0)) {
    return RunChecks(arguments.Is("check", 1) && arguments.Text(1) == "small") == 0 ? 0 : 1;
  }
  if (arguments.Is("peaks", 1)) {
    PrintPeaks(arguments);
  } else if (arguments.Is("decode", 7)) {
    PrintDecode(arguments);
  } else if (arguments.Is("prefill", 7)) {
    PrintPrefill(arguments);
  } else if (arguments.Is("capacity", 3)) {
    PrintCapacity(arguments);
  } else {
    std::fputs(kUsage, stderr);
    return 2;
  }
  return 0;
}

}  // namespace
}  // namespace t2r::bench

int main(int argc, char** argv) {
  try {
    return t2r::bench::Run(t2r::bench::Arguments(argc, argv));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "t2r-bench-gpu: %s\n", error.what());
    return 1;
  }
}
