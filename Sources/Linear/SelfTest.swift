internal import RemoteG2Core

/// Checks at start-up, by bits, that a row's product does not depend on its batch, its place in it,
/// or the number of threads. Cheap; names the shape that fails.
public enum LinearSelfTest {
  public struct Failure: Error, Equatable, Sendable, CustomStringConvertible {
    public let rows: Int
    public let columns: Int
    public let batch: Int
    public var description: String {
      "a \(rows)x\(columns) product depends on its batch (of \(batch)): this CPU's kernels are "
        + "not usable; report it with the output of `remote-g2 doctor`"
    }
  }

  private static let batches = Array(1...17) + [33, 65, 129]

  /// - Parameter shapes: `(rows, columns)` of the model's own matrices.
  public static func run(
    shapes: [(rows: Int, columns: Int)], team: ThreadTeam
  ) throws(Failure) {
    let alone = ThreadTeam(threads: 1)
    for shape in shapes {
      var generator = SplitMix(seed: UInt64(shape.rows) << 32 | UInt64(shape.columns))
      let weights = (0..<shape.rows * shape.columns).map { _ in generator.nextUnit() }
      let matrix = Matrix(rows: shape.rows, columns: shape.columns, team: alone) { range, out in
        for (index, row) in range.enumerated() {
          for column in 0..<shape.columns {
            out[index * shape.columns + column] = weights[row * shape.columns + column]
          }
        }
      }
      let row = (0..<shape.columns).map { _ in generator.nextUnit() }
      var golden = [Float](repeating: 0, count: shape.rows)
      matrix.multiply(row, count: 1, into: &golden, team: alone)
      for batch in batches {
        for place in Set([0, batch / 2, batch - 1]) {
          var input = (0..<batch * shape.columns).map { _ in generator.nextUnit() }
          input.replaceSubrange(place * shape.columns..<(place + 1) * shape.columns, with: row)
          var output = [Float](repeating: 0, count: batch * shape.rows)
          matrix.multiply(input, count: batch, into: &output, team: team)
          let ours = output[place * shape.rows..<(place + 1) * shape.rows]
          guard zip(ours, golden).allSatisfy({ $0.bitPattern == $1.bitPattern }) else {
            throw Failure(rows: shape.rows, columns: shape.columns, batch: batch)
          }
        }
      }
    }
  }
}

/// A small reproducible generator, for self-tests and simulations.
public struct SplitMix: RandomNumberGenerator, Sendable {
  private var state: UInt64

  public init(seed: UInt64) { state = seed }

  public mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// Between -1 and 1.
  public mutating func nextUnit() -> Float { Float(Int32(truncatingIfNeeded: next())) / 0x1p31 }
}
