using Iced.Intel;

namespace Bunraku.Machine;

/// <summary>Programs for Linux guests that need neither a library nor a file beside them: one segment of code.</summary>
/// <remarks>Executable and Linkable Format (ELF), Portable Formats Specification 1.1, with 64-bit headers.</remarks>
internal static class SmallProgram
{
    private const ulong Address = 0x40_0000, Headers = 0x78;

    // Linux, arch/x86/entry/syscalls/syscall_64.tbl.
    public const int Read = 0, Write = 1, Open = 2, Close = 3, Ioctl = 16, Pause = 34, Exit = 60, ClockSetTime = 227;

    /// <summary>Makes the executable file.</summary>
    /// <param name="code">Entered at its beginning.</param>
    public static byte[] Link(Assembler code)
    {
        using var bytes = new MemoryStream();
        code.Assemble(new StreamCodeWriter(bytes), Address + Headers);
        var file = new MemoryStream();
        var w = new BinaryWriter(file);
        w.Write([0x7F, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // 64 bits, little-endian
        w.Write((ushort)2); // ET_EXEC
        w.Write((ushort)62); // EM_X86_64
        w.Write(1);
        w.Write(Address + Headers); // entry
        w.Write(0x40L); // program headers
        w.Write(0L);
        w.Write(0);
        foreach (ushort value in (ushort[])[0x40, 0x38, 1, 0, 0, 0]) w.Write(value); // sizes and numbers of headers
        w.Write(1); // PT_LOAD
        w.Write(5); // read, execute
        w.Write(0L);
        w.Write(Address);
        w.Write(Address);
        w.Write(Headers + (ulong)bytes.Length);
        w.Write(Headers + (ulong)bytes.Length);
        w.Write(0x1000L);
        w.Write(bytes.ToArray());
        w.Flush();
        return file.ToArray();
    }

    /// <summary>A system call whose arguments are in their registers.</summary>
    public static void Call(this Assembler c, int number)
    {
        c.mov(AssemblerRegisters.eax, number);
        c.syscall();
    }
}
