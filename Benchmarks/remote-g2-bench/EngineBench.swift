import Foundation
import KVLayout
import Linear
import LlamaModel
import OSThreads
import RemoteG2Core

/// (d) Prefill and decode, one and two threads; and the matrix kernel against OpenBLAS's
/// batch-invariant one, where that is installed.
enum EngineBench {
  static func run(model path: String?) throws {
    print("\n(d) engine: prefill of 512 tokens in steps of 128, decode of 32 after it, tokens/s")
    guard let path else { throw Failure("name the model") }
    for threads in [1, 2] {
      let team = ThreadTeam(threads: threads)
      let model = try LlamaModel(try GGUFFile(path: path), team: team)
      let (prefill, decode) = measure(model)
      print(
        String(format: "  %d thread(s): prefill %.0f, decode %.1f", threads, prefill, decode))
      team.stop()
    }
    try OpenBLASBench.run()
  }

  static func profile(model path: String?) throws {
    guard let path else { throw Failure("name the model") }
    let model = try LlamaModel(try GGUFFile(path: path), team: ThreadTeam(threads: 2))
    for _ in 0..<3 { print(measure(model)) }
  }

  struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
  }

  private static func measure(_ model: LlamaModel) -> (prefill: Double, decode: Double) {
    let count = 512
    let blocks = (0..<Int32(40)).map { $0 }
    let memory = UnsafeMutableRawPointer.allocate(
      byteCount: model.layout.blockBytes * blocks.count, alignment: 4096)
    defer { memory.deallocate() }
    memset(memory, 0, model.layout.blockBytes * blocks.count)
    let tokens = (0..<Int32(count)).map { $0 &* 91 % 40_000 + 17 }
    func step(_ range: Range<Int>, logits: Bool) {
      let span = SequenceSpan(
        tokens: range.map { tokens[$0 % count] }, position: range.lowerBound, blocks: blocks,
        wantsLogits: logits)
      _ = model.forward([span], pool: memory)
    }
    step(0..<128, logits: true)
    let prefill = Bench.seconds {
      for first in stride(from: 0, to: count, by: 128) { step(first..<first + 128, logits: false) }
    }
    let decode = Bench.seconds {
      for place in count..<count + 32 { step(place..<place + 1, logits: true) }
    }
    return (Double(count) / prefill, 32 / decode)
  }
}

/// The own kernel against OpenBLAS with the one core type that is batch-invariant.
enum OpenBLASBench {
  private typealias Sgemm =
    @convention(c) (
      Int32, Int32, Int32, Int32, Int32, Int32, Float, UnsafePointer<Float>, Int32,
      UnsafePointer<Float>, Int32, Float, UnsafeMutablePointer<Float>, Int32
    ) -> Void

  static func run() throws {
    setenv("OPENBLAS_CORETYPE", "Sandybridge", 1)
    setenv("OPENBLAS_NUM_THREADS", "1", 1)
    guard let library = dlopen("libopenblas.so.0", RTLD_NOW),
      let symbol = dlsym(library, "cblas_sgemm")
    else {
      print("  OpenBLAS is not installed: no comparison (apt install libopenblas0-pthread)")
      return
    }
    let sgemm = unsafeBitCast(symbol, to: Sgemm.self)
    print("  matrix kernel, one thread, GFLOPS: own / OpenBLAS (Sandybridge) = ratio")
    let team = ThreadTeam(threads: 1)
    for (rows, columns) in [(576, 576), (1536, 576), (576, 1536)] {
      var generator = SplitMix(seed: 1)
      let weights = (0..<rows * columns).map { _ in generator.nextUnit() }
      let matrix = Matrix(rows: rows, columns: columns, team: team) { range, out in
        for (index, row) in range.enumerated() {
          for column in 0..<columns {
            out[index * columns + column] = weights[row * columns + column]
          }
        }
      }
      for m in [1, 8, 32, 128] {
        let input = (0..<m * columns).map { _ in generator.nextUnit() }
        var output = [Float](repeating: 0, count: m * rows)
        let work = 2.0 * Double(rows * columns * m)
        var (own, theirs) = ([Double](), [Double]())
        let repeats = max(3, Int(2e8 / work))
        for _ in 0..<7 {
          own.append(
            Bench.seconds {
              for _ in 0..<repeats {
                matrix.multiply(input, count: m, into: &output, team: team)
              }
            })
          theirs.append(
            Bench.seconds {
              for _ in 0..<repeats {
                sgemm(
                  101, 111, 112, Int32(m), Int32(rows), Int32(columns), 1, input, Int32(columns),
                  weights, Int32(columns), 0, &output, Int32(rows))
              }
            })
        }
        let scale = work * Double(repeats) / 1e9
        let (a, b) = (scale / Bench.quantile(own, 0.5), scale / Bench.quantile(theirs, 0.5))
        print(
          String(
            format: "    %4d x (%d x %d): %5.1f / %5.1f = %.2f", m, columns, rows, a, b, a / b))
      }
    }
  }
}
