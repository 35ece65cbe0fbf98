internal import CKernels

/// The model's elementwise arithmetic and attention, with one fixed order each.
public enum Kernels {
  /// Which version this CPU runs. All give the same bits.
  public static var kind: String { String(cString: ckernels_kind()) }

  /// Switches to the portable version and back. For the self-test and for tests.
  public static func forcePortable(_ portable: Bool) { ckernels_force_portable(portable) }

  public static func rmsNorm(
    _ x: UnsafePointer<Float>, _ weights: UnsafePointer<Float>, count: Int, epsilon: Float,
    into output: UnsafeMutablePointer<Float>
  ) { ckernels_rms_norm(x, weights, count, epsilon, output) }

  public static func rope(
    _ head: UnsafeMutablePointer<Float>, cosines: UnsafePointer<Float>,
    sines: UnsafePointer<Float>, headSize: Int
  ) { ckernels_rope(head, cosines, sines, headSize) }

  public static func siluMultiply(
    _ gate: UnsafeMutablePointer<Float>, _ up: UnsafePointer<Float>, count: Int
  ) { ckernels_silu_multiply(gate, up, count) }

  public static func add(
    _ x: UnsafeMutablePointer<Float>, _ y: UnsafePointer<Float>, count: Int
  ) { ckernels_add(x, y, count) }

  /// One query head over the first `count` cached tokens. `headSize` is a multiple of 8.
  public static func attend(
    _ query: UnsafePointer<Float>, keys: UnsafePointer<UnsafePointer<Float>?>,
    values: UnsafePointer<UnsafePointer<Float>?>, count: Int, tokensPerBlock: Int, headSize: Int,
    scale: Float, scores: UnsafeMutablePointer<Float>, into output: UnsafeMutablePointer<Float>
  ) {
    ckernels_attend(
      query, keys, values, count, tokensPerBlock, headSize, scale, scores, output)
  }

  /// Turns `count` quantised elements, a multiple of 32, into floats.
  public static func dequantiseQ4_1(
    _ blocks: UnsafeRawPointer, count: Int, into output: UnsafeMutablePointer<Float>
  ) { ckernels_dequantise_q4_1(blocks, count, output) }

  public static func dequantiseQ8_0(
    _ blocks: UnsafeRawPointer, count: Int, into output: UnsafeMutablePointer<Float>
  ) { ckernels_dequantise_q8_0(blocks, count, output) }

  public static func dequantiseF16(
    _ halves: UnsafeRawPointer, count: Int, into output: UnsafeMutablePointer<Float>
  ) { ckernels_dequantise_f16(halves, count, output) }
}
