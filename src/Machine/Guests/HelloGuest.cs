using System.Buffers.Binary;
using System.Text;
using Iced.Intel;
using static Iced.Intel.AssemblerRegisters;

namespace Bunraku.Machine;

/// <summary>
/// The guest that is a part of the program: a multiboot kernel of 32-bit code, assembled when it is asked for. On COM1 it greets, tells what processor
/// and how much memory it found, repeats one line that it is given (interrupt-driven), and powers off. Ctrl-D instead of a line powers off at once.
/// </summary>
public static class HelloGuest
{
    /// <summary>The guest's name for users.</summary>
    public const string Name = "hello";

    /// <summary>Port of PM1a_CNT, and its SLP_EN bit together with SLP_TYP for S5, as the board's ACPI tables state them.</summary>
    private const ushort PowerControlPort = 0x604, PowerOff = 1 << 13;

    private const uint LoadAddress = 0x10_0000, Handler = LoadAddress + 32, Texts = LoadAddress + 0x800, MultibootMagic = 0x1BAD_B002, AddressesFlag = 1 << 16;
    // Behind the image, in memory that the loader clears.
    private const uint LineBuffer = 0x10_1000, LineMaximum = 0xFF, Number = 0x10_1100, IdtPointer = 0x10_1200, Idt = 0x10_1800, StackTop = 0x10_3000;
    private const ushort Uart = 0x3F8;
    private const byte Com1Vector = 0x24, EndOfTransmission = 4;
    private static readonly byte[] PicInitialization = [0x11, 0x20, 4, 1, 0xEF]; // ICW1 to ICW4, then everything masked but IRQ 4

    /// <summary>Returns the kernel file.</summary>
    public static byte[] Build()
    {
        // Header, interrupt handler, code, texts: what is referred to by address comes first or has a fixed place, for 32-bit code has no relative data
        // addresses.
        byte[] handler = Assemble(InterruptHandler, Handler);
        uint entry = Handler + (uint)handler.Length;
        var texts = new List<byte>();
        byte[] code = Assemble(c => Program(c, texts), entry);
        if (entry + code.Length > Texts || Texts + texts.Count > LineBuffer) throw new InvalidOperationException("the parts of the guest overlap");

        byte[] file = new byte[Texts - LoadAddress + texts.Count];
        // The multiboot header with addresses: the file is loaded as it is, and memory behind it is cleared up to the stack's top.
        ReadOnlySpan<uint> header =
            [MultibootMagic, AddressesFlag, unchecked(0u - MultibootMagic - AddressesFlag), LoadAddress, LoadAddress, LoadAddress + (uint)file.Length, StackTop,
            entry];
        for (int n = 0; n < header.Length; n++) BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(n * 4), header[n]);
        handler.CopyTo(file, Handler - LoadAddress);
        code.CopyTo(file, entry - LoadAddress);
        texts.CopyTo(file, (int)(Texts - LoadAddress));
        return file;
    }

    private static byte[] Assemble(Action<Assembler> write, uint address)
    {
        var c = new Assembler(32);
        write(c);
        using var bytes = new MemoryStream();
        c.Assemble(new StreamCodeWriter(bytes), address);
        return bytes.ToArray();
    }

    private static void Program(Assembler c, List<byte> texts)
    {
        Label write = c.CreateLabel(), put = c.CreateLabel(), get = c.CreateLabel(), bye = c.CreateLabel(), drain = c.CreateLabel(), halt = c.CreateLabel();
        void Say(string text)
        {
            c.mov(esi, Texts + (uint)texts.Count);
            c.call(write);
            texts.AddRange([.. Encoding.ASCII.GetBytes(text), 0]);
        }

        c.mov(esp, StackTop);
        c.cld();
        c.mov(ebp, ebx); // boot information
        SetUpUart(c);
        SetUpInterrupts(c);

        Say("Hello from a guest on Bunraku.\r\nProcessor: ");
        WriteBrand(c, write);
        Say("\r\nMemory: ");
        WriteMemorySize(c, write);
        Say(" MiB\r\nType a line: ");
        ReadLine(c, get, put, bye);
        Say("\r\nYou typed: ");
        c.mov(esi, LineBuffer);
        c.call(write);

        c.Label(ref bye);
        Say("\r\nPowering off.\r\n");
        c.Label(ref drain);
        c.mov(dx, (ushort)(Uart + 5));
        c.@in(al, dx);
        c.test(al, 0x40); // transmitter empty: nothing is lost
        c.jz(drain);
        c.mov(dx, PowerControlPort);
        c.mov(ax, PowerOff);
        c.@out(dx, ax);
        c.cli();
        c.Label(ref halt);
        c.hlt();
        c.jmp(halt);

        Subroutines(c, write, put, get);
    }

    /// <summary>The interrupt only ends HLT: reading the character, which withdraws the request, is the program's.</summary>
    private static void InterruptHandler(Assembler c)
    {
        c.push(eax);
        c.mov(al, 0x20);
        c.@out(0x20, al);
        c.pop(eax);
        c.iretd();
    }

    private static void SetUpUart(Assembler c)
    {
        // Divisor 1 (115200 baud), 8 data bits, FIFOs cleared and on, DTR, RTS and OUT2 (which lets interrupts out), received-data interrupt.
        foreach ((ushort register, byte value) in (ReadOnlySpan<(ushort, byte)>)[(3, 0x80), (0, 1), (1, 0), (3, 3), (2, 7), (4, 0xB), (1, 1)])
        {
            c.mov(dx, (ushort)(Uart + register));
            c.mov(al, value);
            c.@out(dx, al);
        }
    }

    private static void SetUpInterrupts(Assembler c)
    {
        for (int n = 0; n < PicInitialization.Length; n++)
        {
            c.mov(al, PicInitialization[n]);
            c.@out(n == 0 ? (byte)0x20 : (byte)0x21, al);
        }
        // One 32-bit interrupt gate through the code segment that we run in.
        c.mov(__word_ptr[Idt + Com1Vector * 8], (ushort)(Handler & 0xFFFF));
        c.mov(__word_ptr[Idt + Com1Vector * 8 + 6], (ushort)(Handler >> 16));
        c.mov(eax, cs);
        c.mov(__word_ptr[Idt + Com1Vector * 8 + 2], ax);
        c.mov(__word_ptr[Idt + Com1Vector * 8 + 4], 0x8E00);
        c.mov(__word_ptr[IdtPointer], 0x7FF);
        c.mov(__dword_ptr[IdtPointer + 2], Idt);
        c.lidt(__[IdtPointer]);
    }

    /// <summary>Writes CPUID's brand string, or its vendor where there is none.</summary>
    private static void WriteBrand(Assembler c, Label write)
    {
        Label vendor = c.CreateLabel(), leaf = c.CreateLabel(), spaces = c.CreateLabel(), done = c.CreateLabel(), found = c.CreateLabel();
        c.mov(edi, LineBuffer);
        c.mov(eax, 0x8000_0000);
        c.cpuid();
        c.cmp(eax, 0x8000_0004);
        c.jb(vendor);
        c.mov(esi, 0x8000_0002);
        c.Label(ref leaf);
        c.mov(eax, esi);
        c.cpuid();
        foreach (AssemblerRegister32 part in new[] { eax, ebx, ecx, edx })
        {
            c.mov(__dword_ptr[edi], part);
            c.add(edi, 4);
        }
        c.inc(esi);
        c.cmp(esi, 0x8000_0004);
        c.jbe(leaf);
        c.jmp(done);
        c.Label(ref vendor);
        c.xor(eax, eax);
        c.cpuid();
        foreach (AssemblerRegister32 part in new[] { ebx, edx, ecx })
        {
            c.mov(__dword_ptr[edi], part);
            c.add(edi, 4);
        }
        c.Label(ref done);
        c.mov(__byte_ptr[edi], 0);
        c.mov(esi, LineBuffer);
        c.Label(ref spaces);
        c.cmp(__byte_ptr[esi], (byte)' ');
        c.jne(found);
        c.inc(esi);
        c.jmp(spaces);
        c.Label(ref found);
        c.call(write);
    }

    /// <summary>Writes the size of the memory from 0 up, from the boot information's mem_upper (KiB above 1 MiB), in decimal.</summary>
    private static void WriteMemorySize(Assembler c, Label write)
    {
        Label digit = c.CreateLabel();
        c.mov(eax, __dword_ptr[ebp + 8]);
        c.shr(eax, 10);
        c.inc(eax);
        c.mov(esi, Number + 15);
        c.mov(__byte_ptr[esi], 0);
        c.mov(ecx, 10);
        c.Label(ref digit);
        c.xor(edx, edx);
        c.div(ecx);
        c.add(dl, (byte)'0');
        c.dec(esi);
        c.mov(__byte_ptr[esi], dl);
        c.test(eax, eax);
        c.jnz(digit);
        c.call(write);
    }

    /// <summary>Reads a line into the buffer with echo and backspace.</summary>
    private static void ReadLine(Assembler c, Label get, Label put, Label bye)
    {
        Label next = c.CreateLabel(), ordinary = c.CreateLabel(), erase = c.CreateLabel(), notEnd = c.CreateLabel(), end = c.CreateLabel();
        c.mov(edi, LineBuffer);
        c.Label(ref next);
        c.call(get);
        c.cmp(al, EndOfTransmission);
        c.jne(notEnd);
        c.cmp(edi, LineBuffer);
        c.je(bye);
        c.jmp(end);
        c.Label(ref notEnd);
        c.cmp(al, (byte)'\r');
        c.je(end);
        c.cmp(al, (byte)'\n');
        c.je(end);
        c.cmp(al, 0x7F);
        c.je(erase);
        c.cmp(al, 8);
        c.jne(ordinary);
        c.Label(ref erase);
        c.cmp(edi, LineBuffer);
        c.je(next);
        c.dec(edi);
        foreach (byte b in "\b \b"u8)
        {
            c.mov(al, b);
            c.call(put);
        }
        c.jmp(next);
        c.Label(ref ordinary);
        c.cmp(edi, LineBuffer + LineMaximum);
        c.jae(next);
        c.mov(__byte_ptr[edi], al);
        c.inc(edi);
        c.call(put);
        c.jmp(next);
        c.Label(ref end);
        c.mov(__byte_ptr[edi], 0);
    }

    private static void Subroutines(Assembler c, Label write, Label put, Label get)
    {
        Label ready = c.CreateLabel(), ended = c.CreateLabel(), got = c.CreateLabel();
        // write: the text at ESI up to a 0.
        c.Label(ref write);
        c.lodsb();
        c.test(al, al);
        c.jz(ended);
        c.call(put);
        c.jmp(write);
        c.Label(ref ended);
        c.ret();
        // put: the character in AL, once the transmitter takes it.
        c.Label(ref put);
        c.mov(ah, al);
        c.mov(dx, Uart + 5);
        c.Label(ref ready);
        c.@in(al, dx);
        c.test(al, 0x20);
        c.jz(ready);
        c.mov(dx, Uart);
        c.mov(al, ah);
        c.@out(dx, al);
        c.ret();
        // get: AL = a character. No interrupt gets lost between the test and HLT, for STI takes effect one instruction later.
        c.Label(ref get);
        c.cli();
        c.mov(dx, Uart + 5);
        c.@in(al, dx);
        c.test(al, 1);
        c.jnz(got);
        c.sti();
        c.hlt();
        c.jmp(get);
        c.Label(ref got);
        c.mov(dx, Uart);
        c.@in(al, dx);
        c.ret();
    }
}
