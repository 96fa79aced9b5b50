using Iced.Intel;

namespace Bunraku.Lab.PopekGoldberg;

/// <summary>One instruction under observation, with operands that every place it runs in can give it.</summary>
/// <param name="Name">As the manuals write it.</param>
/// <param name="Emit">Emits exactly one instruction, independent of addresses.</param>
/// <param name="Prepare">Registers and memory before it.</param>
/// <param name="Bitness">Code segment that it needs: 64, or 32 for what 64-bit mode does not have.</param>
internal sealed record Probe(string Name, Action<Assembler> Emit, Action<ProbeInput>? Prepare = null, int Bitness = 64)
{
    /// <summary>The instruction's bytes.</summary>
    public byte[] Assemble()
    {
        var assembler = new Assembler(Bitness);
        Emit(assembler);
        var writer = new ByteWriter();
        assembler.Assemble(writer, 0);
        return writer.ToArray();
    }
}

/// <summary>
/// What a probe starts with. The same for every privilege level and machine state of one place, except for what the place has to name itself.
/// </summary>
internal sealed class ProbeInput
{
    /// <summary>Bytes of the scratch area; the operand lies at its start, the stack above.</summary>
    public const int ScratchSize = 0x400;
    private const int OperandOffset = 0x100, StackOffset = 0x300;

    public ProbeInput(ulong scratch, ulong after)
    {
        (ScratchAddress, After) = (scratch, after);
        Memory.AsSpan().Fill(0xA5);
        Gpr[(int)Gp.Rsi] = Operand;
        Gpr[(int)Gp.Rsp] = scratch + StackOffset;
    }

    /// <summary>RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 … R15. RSI addresses the operand.</summary>
    public ulong[] Gpr { get; } = new ulong[16];
    public byte[] Memory { get; } = new byte[ScratchSize];

    /// <summary>Address of the scratch area.</summary>
    public ulong ScratchAddress { get; }
    public ulong Operand => ScratchAddress + OperandOffset;
    /// <summary>Address of what follows the instruction.</summary>
    public ulong After { get; }

    /// <summary>Selector of a code segment that every privilege level may jump to: a conforming one, or the current one where there is no such.</summary>
    public required ushort FarCode { get; init; }
    /// <summary>Selectors of the current stack and code segment.</summary>
    public required ushort Code { get; init; }
    public required ushort Stack { get; init; }
    /// <summary>Selector of a data segment of level 3, and of level 0.</summary>
    public required ushort UserData { get; init; }
    public required ushort KernelData { get; init; }
    /// <summary>Selectors of a local descriptor table and of a task state segment that are not loaded; 0 where nobody knows one.</summary>
    public ushort OtherLdt { get; init; }
    public ushort OtherTss { get; init; }
    /// <summary>Bases of a descriptor table, an interrupt table and a page-table root that are not loaded but would do; 0 where nobody knows one.</summary>
    public ulong OtherGdt { get; init; }
    public ulong OtherIdt { get; init; }
    public ulong OtherRoot { get; init; }
    /// <summary>A mapped page whose translation the place watches.</summary>
    public ulong WatchedPage { get; init; }
    /// <summary>RFLAGS of the machine state without the interrupt flag.</summary>
    public const ulong FlagsWithoutIf = 2;

    public ulong this[Gp register]
    {
        get => Gpr[(int)register];
        set => Gpr[(int)register] = value;
    }

    /// <summary>Writes the operand.</summary>
    public void Write<T>(int offset, T value) where T : unmanaged =>
        System.Runtime.InteropServices.MemoryMarshal.Write(Memory.AsSpan(OperandOffset + offset), value);

    /// <summary>What lies on the stack, the first value on top.</summary>
    public void Stacked(params ReadOnlySpan<ulong> values)
    {
        for (int n = 0; n < values.Length; n++) System.Runtime.InteropServices.MemoryMarshal.Write(Memory.AsSpan(StackOffset + n * 8), values[n]);
    }
}

/// <summary>Numbers of the general registers.</summary>
internal enum Gp { Rax, Rcx, Rdx, Rbx, Rsp, Rbp, Rsi, Rdi }

internal sealed class ByteWriter : CodeWriter
{
    private readonly List<byte> _bytes = [];
    public override void WriteByte(byte value) => _bytes.Add(value);
    public byte[] ToArray() => [.. _bytes];
}
