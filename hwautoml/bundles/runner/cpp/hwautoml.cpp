// The C interface of hwautoml.h on TVM's runtime.
#include "hwautoml.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "image.h"
#include "sha256.h"

namespace ffi = tvm::ffi;

namespace {

constexpr char kSchema[] = "hwautoml-bundle/1";
constexpr char kLibrary[] = "model_tvm.so";
constexpr char kManifest[] = "manifest.json", kSeal[] = "manifest.sha256";
constexpr int kMaxResolution = 8192;

// Kernels use aligned loads.
struct AlignedMemory {
  void AllocData(DLTensor* tensor) {
    size_t size = (ffi::GetDataSize(*tensor) + 63) / 64 * 64;
    tensor->data = std::aligned_alloc(64, size);
    if (tensor->data == nullptr) throw std::bad_alloc();
  }
  void FreeData(DLTensor* tensor) { std::free(tensor->data); }
};

using Object = ffi::Map<ffi::Any, ffi::Any>;

ffi::Any field(const Object& object, const char* name) {
  auto found = object.find(ffi::String(name));
  if (found == object.end()) throw std::runtime_error(std::string("manifest.json has no ") + name);
  return (*found).second;
}

int number(const Object& object, const char* name) {
  auto value = field(object, name).try_cast<int64_t>();
  if (!value.has_value() || *value < 1 || *value > kMaxResolution)
    throw std::runtime_error(std::string("manifest.json: ") + name + " is no sensible number");
  return int(*value);
}

template <typename T>
T as(const ffi::Any& value, const char* name) {
  auto found = value.try_cast<T>();
  if (!found.has_value()) throw std::runtime_error(std::string("manifest.json: ") + name + " has another type");
  return *found;
}

std::string content_of(std::ifstream& file) {
  std::ostringstream content;
  content << file.rdbuf();
  return content.str();
}

// The manifest's own hash lies beside it, as sha256sum writes it; bundles of before have none.
void check_seal(const std::string& bundle, const std::string& manifest) {
  std::ifstream file(bundle + "/" + kSeal, std::ios::binary);
  if (file && content_of(file) != hwautoml::sha256_of(manifest) + "  " + kManifest + "\n")
    throw std::runtime_error(bundle + "/" + kManifest + " is not the one this bundle was made with: its sha256 is not " +
                             "in " + kSeal + "; copy the folder again");
}

Object read_manifest(const std::string& bundle) {
  std::string path = bundle + "/" + kManifest;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path + ": copy the whole folder");
  std::string content = content_of(file);
  check_seal(bundle, content);
  ffi::String problem;
  ffi::Any parsed = ffi::json::Parse(content, &problem);
  if (problem.size() > 0) throw std::runtime_error(path + " is damaged: " + std::string(problem.c_str()));
  auto manifest = parsed.try_cast<Object>();
  if (!manifest.has_value()) throw std::runtime_error(path + " is damaged: it holds no object");
  if (std::string(as<ffi::String>(field(*manifest, "schema"), "schema").c_str()) != kSchema)
    throw std::runtime_error(path + " is of another version than " + kSchema);
  return *manifest;
}

// Bundles from before there were rules lack the keys.
hwautoml::PixelRule pixel_rule(const Object& shape) {
  hwautoml::PixelRule rule;
  auto levels = shape.find(ffi::String("levels"));
  if (levels != shape.end() && (*levels).second != nullptr) {
    auto both = as<ffi::Array<ffi::Any>>((*levels).second, "levels");
    if (both.size() != 2) throw std::runtime_error("manifest.json: levels are no two numbers");
    rule.has_levels = true;
    rule.low = as<double>(both[0], "levels");
    rule.high = as<double>(both[1], "levels");
  }
  auto background = shape.find(ffi::String("background"));
  if (background != shape.end()) rule.background = int(as<int64_t>((*background).second, "background") & 255);
  auto fit = shape.find(ffi::String("fit"));
  if (fit != shape.end()) rule.fit = as<ffi::String>((*fit).second, "fit").c_str();
  if (rule.fit != "crop" && rule.fit != "pad" && rule.fit != "stretch")
    throw std::runtime_error("manifest.json asks for a fit that is not known here: " + rule.fit);
  return rule;
}

// A flipped bit in a library gives other probabilities, not errors.
void check_library(const Object& manifest, const std::string& path) {
  Object files = as<Object>(field(manifest, "files"), "files");
  if (files.find(ffi::String(kLibrary)) == files.end())
    throw std::runtime_error(std::string("this bundle has no ") + kLibrary + ", and this runner needs one");
  Object facts = as<Object>(field(files, kLibrary), kLibrary);
  int64_t expected = as<int64_t>(field(facts, "size_bytes"), "size_bytes");
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  int64_t size = file ? int64_t(file.tellg()) : -1;
  if (size != expected)
    throw std::runtime_error(path + " has " + std::to_string(size) + " bytes, expected " + std::to_string(expected) +
                             ": copy the folder again");
  std::string digest = hwautoml::sha256_of_file(path);
  std::string promised = as<ffi::String>(field(facts, "sha256"), "sha256");
  if (digest != promised)
    throw std::runtime_error(path + " is not the file this bundle was made with (sha256 " + digest.substr(0, 12) +
                             ", manifest.json says " + promised.substr(0, 12) + "): copy the folder again");
}

void write_error(const char* text, char* error, size_t error_size) {
  if (error != nullptr && error_size > 0) std::snprintf(error, error_size, "%s", text);
}

}  // namespace

struct hwautoml_model {
  std::vector<std::string> classes;
  std::string answer = "ranking", unit;  // of bundles without a task
  std::vector<float> thresholds;
  int image_size = 0, resolution = 0, channels = 0;
  hwautoml::PixelRule rule;
  ffi::Optional<ffi::Module> library, machine;
  ffi::Optional<ffi::Function> run;
  ffi::Tensor input;

  hwautoml_model(const std::string& bundle, int num_threads) {
    Object manifest = read_manifest(bundle);
    std::string path = bundle + "/" + kLibrary;
    check_library(manifest, path);
    for (const ffi::Any& name : as<ffi::Array<ffi::Any>>(field(manifest, "classes"), "classes"))
      classes.emplace_back(as<ffi::String>(name, "classes").c_str());
    if (manifest.find(ffi::String("task")) != manifest.end()) read_answer(manifest);
    Object shape = as<Object>(field(manifest, "input"), "input");
    image_size = number(shape, "image_size");
    resolution = number(shape, "resolution");
    channels = number(shape, "channels");
    rule = pixel_rule(shape);
    int threads = num_threads > 0 ? num_threads : number(manifest, "num_threads");
    setenv("TVM_NUM_THREADS", std::to_string(threads).c_str(), 1);
    library = ffi::Module::LoadFromFile(path.find('/') == std::string::npos ? "./" + path : path);
    machine = (*library)->GetFunction("vm_load_executable").value()().cast<ffi::Module>();
    // Device, its number, and the pooled allocator.
    (*machine)->GetFunction("vm_initialization").value()(int(kDLCPU), 0, 2);
    run = (*machine)->GetFunction("main");
    if (!run.has_value()) throw std::runtime_error(path + " has no function main");
    input = ffi::Tensor::FromNDAlloc(AlignedMemory(), ffi::Shape({1, resolution, resolution, channels}),
                                     DLDataType{kDLUInt, 8, 1}, DLDevice{kDLCPU, 0});
  }

  void read_answer(const Object& manifest) {
    Object found = as<Object>(field(as<Object>(field(manifest, "task"), "task"), "answer"), "answer");
    answer = as<ffi::String>(field(found, "kind"), "kind").c_str();
    unit = as<ffi::String>(field(found, "unit"), "unit").c_str();
    for (const ffi::Any& threshold : as<ffi::Array<ffi::Any>>(field(found, "thresholds"), "thresholds"))
      thresholds.push_back(float(as<double>(threshold, "thresholds")));
    if (answer != "ranking" && answer != "above" && answer != "values")
      throw std::runtime_error("manifest.json asks for answers of a kind that is not known here: " + answer);
    if (answer == "above" && thresholds.size() != classes.size())
      throw std::runtime_error("manifest.json: thresholds are not as many as classes");
  }

  void classify(const hwautoml::Image& image, float* probabilities) {
    hwautoml::Image prepared = hwautoml::prepare(image, rule, image_size, resolution, channels);
    std::memcpy(input.data_ptr(), prepared.pixels.data(), prepared.pixels.size());
    ffi::Tensor output = (*run)(input).cast<ffi::Tensor>();
    if (output.numel() != int64_t(classes.size()))
      throw std::runtime_error("the model gives " + std::to_string(output.numel()) + " numbers for " +
                               std::to_string(classes.size()) + " classes");
    std::memcpy(probabilities, output.data_ptr(), classes.size() * sizeof(float));
  }
};

extern "C" {

hwautoml_model* hwautoml_load(const char* bundle, int num_threads, char* error, size_t error_size) {
  try {
    return new hwautoml_model(bundle, num_threads);
  } catch (const std::exception& problem) {
    write_error(problem.what(), error, error_size);
    return nullptr;
  }
}

int hwautoml_num_classes(const hwautoml_model* model) { return int(model->classes.size()); }

const char* hwautoml_class_name(const hwautoml_model* model, int index) {
  return index < 0 || index >= hwautoml_num_classes(model) ? nullptr : model->classes[index].c_str();
}

const char* hwautoml_answer(const hwautoml_model* model) { return model->answer.c_str(); }

float hwautoml_threshold(const hwautoml_model* model, int index) {
  return index < 0 || index >= int(model->thresholds.size()) ? 0.0f : model->thresholds[index];
}

const char* hwautoml_unit(const hwautoml_model* model) { return model->unit.c_str(); }

int hwautoml_classify(hwautoml_model* model, const uint8_t* pixels, int width, int height, int channels,
                      float* probabilities, char* error, size_t error_size) {
  try {
    if (width < 1 || height < 1 || channels < 1 || channels > 4)
      throw std::runtime_error("an image needs at least one pixel, and 1 to 4 channels");
    hwautoml::Image image(width, height, channels);
    std::memcpy(image.pixels.data(), pixels, image.pixels.size());
    model->classify(image, probabilities);
    return 0;
  } catch (const std::exception& problem) {
    write_error(problem.what(), error, error_size);
    return 1;
  }
}

int hwautoml_classify_deep(hwautoml_model* model, const float* pixels, int width, int height, float* probabilities,
                           char* error, size_t error_size) {
  try {
    if (width < 1 || height < 1) throw std::runtime_error("an image needs at least one pixel");
    hwautoml::Image image(width, height, 1);
    image.deep.assign(pixels, pixels + image.pixels.size());
    model->classify(image, probabilities);
    return 0;
  } catch (const std::exception& problem) {
    write_error(problem.what(), error, error_size);
    return 1;
  }
}

void hwautoml_free(hwautoml_model* model) { delete model; }

}  // extern "C"
