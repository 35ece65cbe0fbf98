internal import CKernels

/// A weight matrix `[rows][columns]` packed for multiplication: `y = W x`.
public struct Matrix: @unchecked Sendable {
  // @unchecked: the storage is written while it is packed and only read from then on.
  public let rows: Int
  public let columns: Int
  private let storage: Storage

  private final class Storage {
    let panels: UnsafeMutablePointer<Float>
    init(count: Int) { panels = .allocate(capacity: count) }
    deinit { panels.deallocate() }
  }

  /// Packs rows that `fill` writes one panel at a time, so that no whole unpacked copy exists.
  ///
  /// - Parameter fill: Writes the rows of a range, `columns` floats each, one after another.
  public init(
    rows: Int, columns: Int, team: ThreadTeam,
    fill: (Range<Int>, UnsafeMutablePointer<Float>) -> Void
  ) {
    precondition(rows > 0 && columns > 0, "a matrix of \(rows) by \(columns)")
    let panelRows = Int(CKERNELS_PANEL)
    let panelCount = (rows + panelRows - 1) / panelRows
    let storage = Storage(count: panelCount * panelRows * columns)
    self.rows = rows
    self.columns = columns
    self.storage = storage
    team.run(panelCount, grain: 8) { panels in
      let scratch = UnsafeMutablePointer<Float>.allocate(capacity: panelRows * columns)
      defer { scratch.deallocate() }
      for panel in panels {
        let range = panel * panelRows..<min((panel + 1) * panelRows, rows)
        fill(range, scratch)
        ckernels_pack(
          scratch, range.count, columns, storage.panels + panel * panelRows * columns)
      }
    }
  }

  /// `output[m][rows] = input[m][columns] · Wᵀ` for `m` rows of input.
  ///
  /// A row's bits depend on that row and on the weights, and on nothing else.
  public func multiply(
    _ input: UnsafePointer<Float>, count m: Int, into output: UnsafeMutablePointer<Float>,
    team: ThreadTeam
  ) {
    let panelRows = Int(CKERNELS_PANEL)
    let panelCount = (rows + panelRows - 1) / panelRows
    // Small enough to share evenly, large enough that sharing is not what costs.
    let grain = max(1, min(panelCount, m == 1 ? 48 : 4))
    team.run(panelCount, grain: grain) { panels in
      ckernels_matmul(
        input, m, columns, storage.panels, rows, panels.lowerBound, panels.upperBound, output)
    }
  }
}
