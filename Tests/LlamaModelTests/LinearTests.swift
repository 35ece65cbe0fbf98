import Linear
import Testing

@Suite(.serialized) struct `Linear` {
  @Test func `the start-up self-test passes for the shapes of real and of odd models`() throws {
    let team = ThreadTeam(threads: 2)
    defer { team.stop() }
    try LinearSelfTest.run(
      shapes: [(960, 576), (192, 576), (64, 64), (7, 33), (1, 1), (64, 576)], team: team)
  }

  @Test func `the portable and the vector kernels give the same bits`() {
    var generator = SplitMix(seed: 3)
    let team = ThreadTeam(threads: 1)
    let (rows, columns, batch) = (48, 100, 13)
    let weights = (0..<rows * columns).map { _ in generator.nextUnit() }
    let input = (0..<batch * columns).map { _ in generator.nextUnit() }
    let head = 64
    let cache = (0..<4 * 16 * head).map { _ in generator.nextUnit() * 3 }
    func everything() -> [UInt32] {
      let matrix = Matrix(rows: rows, columns: columns, team: team) { range, out in
        for (index, row) in range.enumerated() {
          for column in 0..<columns {
            out[index * columns + column] = weights[row * columns + column]
          }
        }
      }
      var product = [Float](repeating: 0, count: batch * rows)
      matrix.multiply(input, count: batch, into: &product, team: team)
      var normed = [Float](repeating: 0, count: columns)
      Kernels.rmsNorm(input, weights, count: columns, epsilon: 1e-5, into: &normed)
      var gate = Array(input.prefix(columns))
      Kernels.siluMultiply(&gate, weights, count: columns)
      var mixed = [Float](repeating: 0, count: head)
      var scores = [Float](repeating: 0, count: 61)
      cache.withUnsafeBufferPointer { cache in
        let rows: [UnsafePointer<Float>?] = (0..<4).map { cache.baseAddress! + $0 * 16 * head }
        Kernels.attend(
          input, keys: rows, values: rows, count: 61, tokensPerBlock: 16, headSize: head,
          scale: 0.125, scores: &scores, into: &mixed)
      }
      return (product + normed + gate + mixed).map(\.bitPattern)
    }
    let vector = everything()
    Kernels.forcePortable(true)
    let portable = everything()
    Kernels.forcePortable(false)
    #expect(vector == portable)
    #expect(Set(vector).count > 500, "the kernels computed something")
  }

  @Test func `a matrix product is right`() {
    let team = ThreadTeam(threads: 2)
    defer { team.stop() }
    let matrix = Matrix(rows: 3, columns: 2, team: team) { range, out in
      for (index, row) in range.enumerated() {
        out[index * 2] = Float(row)
        out[index * 2 + 1] = 10
      }
    }
    var output = [Float](repeating: 0, count: 6)
    matrix.multiply([1, 2, 3, 4], count: 2, into: &output, team: team)
    #expect(output == [20, 21, 22, 40, 43, 46])
  }
}
