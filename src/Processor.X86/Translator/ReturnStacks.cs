using System.Runtime.InteropServices;

namespace Bunraku.Processor.X86;

/// <summary>
/// The stacks on which emitted code runs. A guest's CALL is emitted as a CALL of the host and its RET as a RET, so that the host's return predictor knows where
/// to. What lies on the stack is where in emitted code a call comes back to; there it is looked whether the guest really returns to that address. Each mode has
/// a stack of its own, so that nobody has to ask whether a RET is executed in the mode of its CALL: emitted code that changes the mode changes the stack.
/// </summary>
/// <remarks>
/// Invariant: between a stack's lowest place and its base lie addresses of emitted code that expect its mode, and at the base that of
/// <see cref="TranslatorRuntime"/>'s routine for an empty stack. A guest that calls without end meets the lowest place, whose address ends with 16 zeros, and
/// begins at the base again; below it is room for the calls of exits, and for a signal of the host that is delivered on this stack. All is
/// forgotten together with the code. One thread.
/// </remarks>
internal sealed unsafe class ReturnStacks : IDisposable
{
    /// <summary>Bytes from a stack's lowest place to the next one's room below, and of that room.</summary>
    private const int Depth = 1 << 16, Room = 3 << 16, Stride = Room + Depth;

    private readonly ProcessorState* _state;
    private byte* _memory;

    /// <param name="state">Whose <see cref="TranslatorState.ReturnStacks"/> are to be kept.</param>
    public ReturnStacks(ProcessorState* state)
    {
        _state = state;
        _memory = (byte*)NativeMemory.AlignedAlloc((nuint)TranslatorState.TargetModes * Stride, Depth);
    }

    ~ReturnStacks() => Release();

    /// <summary>Where the stack of a mode is empty.</summary>
    public ulong BaseOf(int table) => (ulong)_memory + (ulong)table * Stride + Stride - 2 * sizeof(ulong);

    /// <summary>A mode gets its stack, empty.</summary>
    /// <param name="whenEmpty">Where a RET on the empty stack leads.</param>
    public void Open(int table, ulong whenEmpty)
    {
        *(ulong*)BaseOf(table) = whenEmpty;
        _state->Translator.ReturnStacks[table] = BaseOf(table);
    }

    public void Dispose()
    {
        Release();
        GC.SuppressFinalize(this);
    }

    private void Release()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }
}
