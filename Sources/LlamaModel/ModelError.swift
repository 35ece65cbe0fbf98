/// Why a model file cannot be used. Each says what is wrong with which file, and what to do.
public enum ModelError: Error, Equatable, Sendable, CustomStringConvertible {
  case cannotOpen(path: String, reason: String)
  case notGGUF(path: String)
  case version(path: String, UInt32)
  /// The file ends, or an offset points, outside it.
  case truncated(path: String, while: String)
  case malformed(path: String, String)
  case missing(path: String, key: String)
  case unsupportedArchitecture(path: String, String)
  case unsupportedType(path: String, tensor: String, type: UInt32)
  case unsupportedTokenizer(path: String, String)
  case indivisible(path: String, ranks: Int, possible: [Int])
  case shape(path: String, tensor: String, expected: [Int], actual: [Int])

  public var description: String {
    switch self {
    case .cannotOpen(let path, let reason): "cannot open the model \(path): \(reason)"
    case .notGGUF(let path): "\(path) is not a GGUF file: name one with --model"
    case .version(let path, let version):
      "\(path) is GGUF version \(version); versions 2 and 3 are read"
    case .truncated(let path, let part):
      "\(path) ends in the middle of \(part): it is truncated, fetch it again"
    case .malformed(let path, let what): "\(path) is malformed: \(what)"
    case .missing(let path, let key): "\(path) has no \(key)"
    case .unsupportedArchitecture(let path, let name):
      "\(path) is a '\(name)' model; 'llama' models are supported"
    case .unsupportedType(let path, let tensor, let type):
      "\(path): tensor \(tensor) has ggml type \(type); F32, F16, Q4_1 and Q8_0 are supported"
    case .unsupportedTokenizer(let path, let what):
      "\(path): \(what); byte-level BPE (gpt2, pre 'smollm') with a ChatML template is supported"
    case .indivisible(let path, let ranks, let possible):
      "\(path) cannot be shared by \(ranks) ranks: its heads allow "
        + possible.map(String.init).joined(separator: ", ")
    case .shape(let path, let tensor, let expected, let actual):
      "\(path): tensor \(tensor) has shape \(actual), not \(expected)"
    }
  }
}
