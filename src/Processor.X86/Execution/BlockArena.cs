using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// Native memory for the operations and blocks of a generation, given up as a whole when it is full. The host gives pages when they are first used. One thread.
/// </summary>
/// <remarks>Invariant: everything handed out lies inside the two allocations; nothing is freed singly.</remarks>
internal sealed unsafe class BlockArena : IDisposable
{
    private readonly int _mostOperations, _mostBlocks;
    private Insn* _operations;
    private Block* _blocks;
    private int _operationCount, _blockCount;

    public BlockArena(CodeCacheSizes sizes)
    {
        (_mostOperations, _mostBlocks) = (sizes.Operations, sizes.Blocks);
        _operations = (Insn*)NativeMemory.AlignedAlloc((nuint)_mostOperations * (nuint)sizeof(Insn), 64);
        _blocks = (Block*)NativeMemory.AlignedAlloc((nuint)_mostBlocks * (nuint)sizeof(Block), 64);
    }

    ~BlockArena() => Release();

    /// <summary>True when a block of up to <paramref name="operations"/> operations still fits.</summary>
    public bool HasRoom(int operations) => _operationCount + operations <= _mostOperations && _blockCount < _mostBlocks;

    /// <summary>Bytes of operations and blocks, and how many there can be.</summary>
    public (ulong Used, ulong Size) Bytes => (BytesOf(_operationCount, _blockCount), BytesOf(_mostOperations, _mostBlocks));

    private static ulong BytesOf(int operations, int blocks) => (ulong)operations * (ulong)sizeof(Insn) + (ulong)blocks * (ulong)sizeof(Block);

    /// <summary>Nothing was handed out.</summary>
    public bool IsEmpty => _blockCount == 0;

    /// <summary>The operation lies here.</summary>
    public bool Holds(Insn* operation) => operation >= _operations && operation < _operations + _operationCount;

    /// <summary>Blocks that were handed out.</summary>
    public Span<Block> Blocks => new(_blocks, _blockCount);

    /// <summary>Copies finished operations into the arena.</summary>
    public Insn* Add(ReadOnlySpan<Insn> operations)
    {
        Insn* result = _operations + _operationCount;
        operations.CopyTo(new Span<Insn>(result, operations.Length));
        _operationCount += operations.Length;
        return result;
    }

    public Block* AddBlock() => _blocks + _blockCount++;

    public void Clear() => _operationCount = _blockCount = 0;

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        NativeMemory.AlignedFree(_operations);
        NativeMemory.AlignedFree(_blocks);
        _operations = null;
        _blocks = null;
    }
}
