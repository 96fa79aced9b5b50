using System.Buffers.Binary;
using System.Text;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Cli.Tests;

/// <summary>Small multiboot kernels made of 32-bit code. Multiboot Specification 0.6.96, section 3.1 "OS image format", with addresses in the header.</summary>
internal static class TestKernel
{
    private const uint LoadAddress = 0x10_0000, HeaderLength = 32;
    private const ushort Com1 = 0x3F8;

    /// <summary>A kernel file with the code at its entry point.</summary>
    public static byte[] Assemble(Action<Assembler> code)
    {
        var assembler = new Assembler(32);
        code(assembler);
        var stream = new MemoryStream();
        assembler.Assemble(new StreamCodeWriter(stream), LoadAddress + HeaderLength);
        byte[] body = stream.ToArray();
        byte[] file = new byte[HeaderLength + body.Length];
        const uint magic = 0x1BADB002, flags = 1 << 16;
        uint end = LoadAddress + (uint)file.Length;
        uint[] header = [magic, flags, unchecked(0 - magic - flags), LoadAddress, LoadAddress, end, end, LoadAddress + HeaderLength];
        for (int n = 0; n < header.Length; n++) BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(4 * n), header[n]);
        body.CopyTo(file, HeaderLength);
        return file;
    }

    /// <summary>Writes a byte to a port. Changes AL and DX.</summary>
    public static void Out(Assembler a, ushort port, byte value)
    {
        a.mov(dx, port);
        a.mov(al, value);
        a.@out(dx, al);
    }

    /// <summary>Prints text on COM1. Changes AL and DX.</summary>
    public static void Print(Assembler a, string text)
    {
        Out(a, Com1 + 3, 3); // 8 bits
        foreach (byte b in Encoding.ASCII.GetBytes(text)) Out(a, Com1, b);
    }

    /// <summary>Waits for a byte on COM1 and leaves it in AL, and COM1's data port in DX.</summary>
    public static void Receive(Assembler a)
    {
        Label wait = a.CreateLabel();
        a.mov(dx, (ushort)(Com1 + 5)); // not behind the label: the caller may have one here, and an instruction has no two
        a.Label(ref wait);
        a.@in(al, dx);
        a.test(al, 1);
        a.jz(wait);
        a.mov(dx, Com1);
        a.@in(al, dx);
    }

    /// <summary>Stays here for ever.</summary>
    public static void Loop(Assembler a)
    {
        Label here = a.CreateLabel();
        a.Label(ref here);
        a.jmp(here);
    }
}

/// <summary>A file that is deleted with the test.</summary>
internal sealed class TemporaryFile : IDisposable
{
    public TemporaryFile(byte[]? content = null)
    {
        Path = System.IO.Path.Combine(System.IO.Path.GetTempPath(), "bunraku-test-" + Guid.NewGuid().ToString("n"));
        if (content is not null) File.WriteAllBytes(Path, content);
    }

    public string Path { get; }

    public void Dispose() => File.Delete(Path);
}
