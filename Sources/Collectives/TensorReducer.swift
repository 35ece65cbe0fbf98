/// The sums a tensor-parallel forward pass needs. Only the forward pass holds one, and every rank
/// makes the same calls, because they depend on the plan and on nothing else.
///
/// Every rank's part is gathered and added in rank order, element by element. A library's all-reduce
/// chooses its order by size, so that a token's bits would depend on what shares its batch.
public protocol TensorReducer: AnyObject {
  var rank: Int { get }
  var rankCount: Int { get }
  /// Replaces `values` by their sums over all ranks: the same bits on every rank.
  func sum(_ values: UnsafeMutablePointer<Float>, count: Int)
}

/// A group of one: a sum of one part.
public final class SoloTensorReducer: TensorReducer {
  public let rank = 0
  public let rankCount = 1

  public init() {}

  public func sum(_ values: UnsafeMutablePointer<Float>, count: Int) {}
}

/// Adds parts in rank order. Every reducer's arithmetic, wherever the parts come from.
enum RankOrderSum {
  static func add(
    _ parts: [UnsafePointer<Float>], count: Int, into sums: UnsafeMutablePointer<Float>
  ) {
    sums.update(from: parts[0], count: count)
    for part in parts.dropFirst() {
      for index in 0..<count { sums[index] += part[index] }
    }
  }
}
