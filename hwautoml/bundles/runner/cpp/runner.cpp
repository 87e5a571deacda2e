// Classify image files with a bundle, through the C interface: an example of embedding, and a program of use.
//
//   hwautoml_runner BUNDLE IMAGE... [--top K] [--threads N] [--json] [--raw WIDTHxHEIGHTxCHANNELS]
//
// Exit codes, as of run.py: 0 done, 2 wrong usage, 3 an image could not be read, 8 the bundle cannot be loaded or run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#include "hwautoml.h"
#include "image.h"

namespace {

constexpr int kUsage = 2, kBadImage = 3, kBadModel = 8;

struct Options {
  std::string bundle;
  std::vector<std::string> images;
  int top = 3, threads = 0;
  int raw_width = 0, raw_height = 0, raw_channels = 0;
  bool json = false;
};

const char kHelp[] =
    "usage: hwautoml_runner BUNDLE IMAGE... [--top K] [--threads N] [--json] [--raw WIDTHxHEIGHTxCHANNELS]\n"
    "\n"
    "Classifies binary PPM, PGM and PFM files (PNG and JPEG too when built with stb_image) with the model in the folder\n"
    "BUNDLE. --raw reads bytes without a header instead, rows first, channels last.\n";

int positive(const char* text, const char* option) {
  char* end = nullptr;
  long value = std::strtol(text, &end, 10);
  if (*text == 0 || *end != 0 || value < 1 || value > 1000000)
    throw std::invalid_argument(std::string(option) + " needs a positive number, got " + text);
  return int(value);
}

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    bool takes_value = word == "--top" || word == "--threads" || word == "--raw";
    if (takes_value && ++i == argc) throw std::invalid_argument(word + " needs a value");
    if (word == "--top") {
      options.top = positive(argv[i], "--top");
    } else if (word == "--threads") {
      options.threads = positive(argv[i], "--threads");
    } else if (word == "--raw") {
      if (std::sscanf(argv[i], "%5dx%5dx%1d", &options.raw_width, &options.raw_height, &options.raw_channels) != 3 ||
          options.raw_width < 1 || options.raw_height < 1 || (options.raw_channels != 1 && options.raw_channels != 3))
        throw std::invalid_argument(std::string("--raw needs e.g. 32x32x3, got ") + argv[i]);
    } else if (word == "--json") {
      options.json = true;
    } else if (word.size() > 1 && word[0] == '-') {
      throw std::invalid_argument("unknown option " + word);
    } else if (options.bundle.empty()) {
      options.bundle = word;
    } else {
      options.images.push_back(word);
    }
  }
  if (options.images.empty()) throw std::invalid_argument("name a bundle and at least one image");
  return options;
}

std::string quoted(const std::string& text) {
  std::string result = "\"";
  for (char c : text) {
    char escaped[8];
    std::snprintf(escaped, sizeof(escaped), "\\u%04x", unsigned(uint8_t(c)));
    result += c == '"' || c == '\\' ? std::string("\\") + c : uint8_t(c) < 0x20 ? std::string(escaped) : std::string(1, c);
  }
  return result + "\"";
}

// File names and class names may hold what ends a line or steers a terminal.
std::string shown(const std::string& text) {
  std::string result;
  for (char c : text) {
    char escaped[5];
    std::snprintf(escaped, sizeof(escaped), "\\x%02x", unsigned(uint8_t(c)));
    result += uint8_t(c) < 0x20 || c == 0x7f ? std::string(escaped) : std::string(1, c);
  }
  return result;
}

// Indices of what is said of an image, in that order.
std::vector<int> answers(const Options& options, const hwautoml_model* model, const std::vector<float>& outputs) {
  std::vector<int> order(outputs.size());
  std::iota(order.begin(), order.end(), 0);
  std::string kind = hwautoml_answer(model);
  if (kind == "values") return order;
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return outputs[a] > outputs[b]; });
  if (kind == "above") {
    auto is_below = [&](int i) { return !(outputs[i] >= hwautoml_threshold(model, i)); };
    order.erase(std::remove_if(order.begin(), order.end(), is_below), order.end());
  } else {
    order.resize(std::min(order.size(), size_t(options.top)));
  }
  return order;
}

void print(const Options& options, const std::string& image, const hwautoml_model* model,
           const std::vector<float>& outputs, bool is_first) {
  std::vector<int> order = answers(options, model, outputs);
  bool are_values = std::string(hwautoml_answer(model)) == "values";
  std::string unit = hwautoml_unit(model);
  if (options.json) {
    std::printf("%s\n  {\"image\": %s, \"runtime\": \"tvm\", \"predictions\": [", is_first ? "[" : ",",
                quoted(image).c_str());
    for (size_t i = 0; i < order.size(); ++i) {
      std::printf("%s{\"%s\": %s, \"%s\": %.9g", i == 0 ? "" : ", ", are_values ? "output" : "class",
                  quoted(hwautoml_class_name(model, order[i])).c_str(), are_values ? "value" : "probability",
                  double(outputs[order[i]]));
      std::printf("%s%s}", are_values ? ", \"unit\": " : "", are_values ? quoted(unit).c_str() : "");
    }
    std::printf("]}");
    return;
  }
  std::printf("%s:", shown(image).c_str());
  for (size_t i = 0; i < order.size(); ++i) {
    const char *comma = i == 0 ? "" : ",";
    std::string name = shown(hwautoml_class_name(model, order[i]));
    double value = outputs[order[i]];
    if (are_values)
      std::printf("%s %s %.4g%s%s", comma, name.c_str(), value, unit.empty() ? "" : " ", shown(unit).c_str());
    else
      std::printf("%s %s %.1f%%", comma, name.c_str(), 100.0 * value);
  }
  std::printf(order.empty() ? " none\n" : "\n");
}

int classify_files(const Options& options, hwautoml_model* model) {
  std::vector<float> probabilities(size_t(hwautoml_num_classes(model)));
  char error[1024];
  bool failed = false, is_first = true;
  for (const std::string& path : options.images) {
    hwautoml::Image image;
    try {
      image = options.raw_width > 0
                  ? hwautoml::read_raw(path, options.raw_width, options.raw_height, options.raw_channels)
                  : hwautoml::read_image(path);
    } catch (const std::exception& problem) {
      std::fprintf(stderr, "hwautoml_runner: %s\n", shown(problem.what()).c_str());
      failed = true;
      continue;
    }
    int code = image.deep.empty() ? hwautoml_classify(model, image.pixels.data(), image.width, image.height,
                                                      image.channels, probabilities.data(), error, sizeof(error))
                                  : hwautoml_classify_deep(model, image.deep.data(), image.width, image.height,
                                                           probabilities.data(), error, sizeof(error));
    if (code != 0) {
      std::fprintf(stderr, "hwautoml_runner: %s: %s\n", shown(path).c_str(), shown(error).c_str());
      return kBadModel;
    }
    print(options, path, model, probabilities, is_first);
    is_first = false;
  }
  if (options.json) std::printf("%s\n", is_first ? "[]" : "\n]");
  return failed ? kBadImage : 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (argc > 1 && (std::strcmp(argv[1], "--help") == 0 || std::strcmp(argv[1], "-h") == 0)) {
    std::fputs(kHelp, stdout);
    return 0;
  }
  try {
    options = parse(argc, argv);
  } catch (const std::invalid_argument& problem) {
    std::fprintf(stderr, "%shwautoml_runner: %s\n", kHelp, problem.what());
    return kUsage;
  }
  char error[1024] = "";
  hwautoml_model* model = hwautoml_load(options.bundle.c_str(), options.threads, error, sizeof(error));
  if (model == nullptr) {
    std::fprintf(stderr, "hwautoml_runner: %s\n", shown(error).c_str());
    return kBadModel;
  }
  int code = classify_files(options, model);
  hwautoml_free(model);
  return code;
}
