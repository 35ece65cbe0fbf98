import RemoteG2Core
import Testing

@Suite struct `Recent keys` {
  @Test func `are those inserted last, as many as there is room for`() {
    var generator = TestGenerator(seed: 5)
    for room in 1...4 {
      var keys = RecentKeys(countMax: room)
      // The insertions that count, oldest first. One that was removed keeps its place, and says nothing.
      var model: [(key: Int, isRemoved: Bool)] = []
      for _ in 0..<500 {
        let number = Int.random(in: 0..<8, using: &generator)
        let key = BlockKey(high: UInt64(number), low: 1)
        if Bool.random(using: &generator) {
          keys.insert(key)
          if !model.contains(where: { $0.key == number && !$0.isRemoved }) {
            model.append((number, false))
            if model.count > room { model.removeFirst() }
          }
        } else {
          keys.remove(key)
          for index in model.indices where model[index].key == number {
            model[index].isRemoved = true
          }
        }
        let found = (0..<8).filter { keys.contains(BlockKey(high: UInt64($0), low: 1)) }
        #expect(found == Set(model.filter { !$0.isRemoved }.map(\.key)).sorted())
      }
    }
  }
}

@Suite struct `Deadline heap` {
  @Test func `gives the earliest first, and of equal ones the first that was inserted`() {
    var generator = TestGenerator(seed: 3)
    var heap = DeadlineHeap<Int, Int>()
    var model: [(deadline: Int, value: Int)] = []
    for value in 0..<2000 {
      if model.isEmpty || Int.random(in: 0..<5, using: &generator) < 3 {
        let deadline = Int.random(in: 0..<20, using: &generator)
        heap.insert(value, due: deadline)
        let place = model.firstIndex { $0.deadline > deadline } ?? model.count
        model.insert((deadline, value), at: place)
      } else {
        let expected = model.removeFirst()
        let popped = heap.popFirst()
        #expect(popped?.deadline == expected.deadline && popped?.value == expected.value)
      }
      #expect(heap.count == model.count && heap.first?.value == model.first?.value)
    }
  }
}
